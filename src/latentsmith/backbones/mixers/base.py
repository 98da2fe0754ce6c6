"""What every mixer promises: tokens at points to tokens at the same points."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from latentsmith.backbones.blocks.curves import Curve
from latentsmith.backbones.mixers.points import Points
from latentsmith.config.schema import schema
from latentsmith.registry import Registry

MIXERS = Registry("mixer", "latentsmith.backbones.mixers")


@schema
class MixerConfig:
    """Base of all mixer configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self, width: int, layer: int = 0) -> "Mixer":
        """For tokens of ``width``, in the ``layer``-th block: blocks may take turns with curves."""
        raise TypeError(f"{type(self).__name__} has no build()")


class Mixer(nn.Module):
    """Tokens [B, L, W] at L points → the same shape; whatever order the points are given in."""

    def forward(self, x: Tensor, points: Points) -> Tensor:
        """Same shape and dtype."""
        raise TypeError(f"{type(self).__name__} has no forward()")

    def reset(self, rng: torch.Generator) -> None:
        """Set weights whose start is not that of a matrix or a bias, after
        `latentsmith.backbones.blocks.weights.draw`. Here: none."""


Curves = Annotated[list[Curve], Field(min_length=1)]
