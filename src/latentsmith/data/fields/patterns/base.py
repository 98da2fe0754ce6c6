"""What every sampling pattern promises."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.registry import Registry

PATTERNS = Registry("pattern", "latentsmith.data.fields.patterns")


class Pattern(Protocol):
    """Chooses lattice points for each signal of a batch."""

    def pick(
        self, batch: int, size: Sequence[int], count: int, generator: torch.Generator
    ) -> Tensor:
        """Raster numbers of the chosen points: int64 [batch, n] on the generator's device.

        Args:
            batch: signals.
            size: points along each axis.
            count: points wanted, 1 to their number; n may differ where a pattern cannot give any
                number (``grid``), but is in that range and the same for the whole batch.
            generator: the only source of chance.

        No point is chosen twice within a signal.
        """
        ...


@schema
class PatternConfig:
    """Base of all pattern configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self) -> Pattern:
        """The pattern; it holds no state."""
        raise TypeError(f"{type(self).__name__} has no build()")


def scores(batch: int, points: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers float32 [batch, points] on the generator's device: the largest n of a row
    are n points drawn without replacement."""
    return torch.rand(batch, points, generator=generator, device=generator.device)
