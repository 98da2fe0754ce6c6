"""``grid``: every k-th point."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.fields.patterns.base import PATTERNS, PatternConfig


@PATTERNS.register("grid", help="an even sub-lattice, shifted for every signal")
@schema
class GridConfig(PatternConfig):
    """As many points along each axis as come nearest to the number asked for."""

    kind: Literal["grid"] = "grid"

    def build(self) -> "Grid":
        """The pattern."""
        return Grid()


class Grid:
    """See `GridConfig`."""

    def pick(
        self, batch: int, size: Sequence[int], count: int, generator: torch.Generator
    ) -> Tensor:
        """int64 [batch, n], n = the product of `along_axes`; the sub-lattice starts anywhere."""
        device = generator.device
        index = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        for points, some in zip(size, along_axes(size, count), strict=True):
            spacing = points / some
            start = torch.rand(batch, 1, generator=generator, device=device) * spacing
            # start below the spacing keeps the last point inside, spacing >= 1 keeps all apart
            along = (start + torch.arange(some, device=device) * spacing).long()
            along = along.clamp_max(points - 1)
            index = (index[:, :, None] * points + along[:, None, :]).flatten(1)
        return index


def along_axes(size: Sequence[int], count: int) -> list[int]:
    """Points along each axis, in the axes' proportions, whose product comes near ``count``."""
    left, out = float(count), []
    for place, points in enumerate(size):
        volume = 1.0
        for other in size[place:]:
            volume *= other
        share = (left / volume) ** (1 / (len(size) - place))
        out.append(min(points, max(1, round(points * share))))
        left = max(1.0, left / out[-1])
    return out
