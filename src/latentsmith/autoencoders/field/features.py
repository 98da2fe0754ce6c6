"""What encoder and decoders of fields share: features of coordinates, and nearness."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from latentsmith.backbones.blocks.fourier import FourierFeatures
from latentsmith.backbones.mixers.points import Points
from latentsmith.config.schema import schema


@schema
class FourierConfig:
    """Features of coordinates."""

    count: Annotated[int, Field(gt=0)] = 32
    """Wave vectors; each gives a cosine and a sine."""
    scale: Annotated[float, Field(gt=0)] = 4.0
    """Their standard deviation, in cycles over the domain. About an eighth of the training's
    points along a side."""
    cutoff: Annotated[float, Field(gt=0)] = 16.0
    """None is longer: half the training's points along a side, above which samples say nothing."""

    def __post_init__(self) -> None:
        if self.scale > self.cutoff:
            raise ValueError(
                f"fourier.scale {self.scale:g} is above fourier.cutoff {self.cutoff:g}, so nearly "
                "no wave vector would be kept: set scale to about a quarter of cutoff"
            )

    def build(self, dims: int) -> FourierFeatures:
        """For coordinates of so many dimensions."""
        return FourierFeatures(dims, self.count, scale=self.scale, cutoff=self.cutoff)


class Nearness(nn.Module):
    """A bias for attention between two sets of points: −|a − b|² / (2 r²), r learned by each head.

    Radii start geometrically spread from ``first`` spacings to 8 times that: the first heads are a
    local average from the start (so that a few minutes of training suffice), the last see all.

    Args:
        heads: of the attention.
        spacing: distance of the coarser set's points.
        first: radius of the first head at the start, in spacings.
    """

    def __init__(self, heads: int, spacing: float, first: float = 1.0):
        super().__init__()
        self.first = first * spacing
        self.log_radius = nn.Parameter(torch.empty(heads, 1))

    def reset(self) -> None:
        """Set the radii to their start."""
        with torch.no_grad():
            spread = torch.linspace(0, 3, len(self.log_radius)) * torch.log(torch.tensor(2.0))
            self.log_radius.copy_((self.first * spread.exp()).log()[:, None])

    def forward(self, a: Points, b: Points) -> Tensor:
        """Points [B, N, d] and [B, L, d] → [B, heads, N, L]."""
        falls = 0.5 * torch.exp(-2 * self.log_radius)
        apart = squared_distances(a.coordinates, b.coordinates)
        return -falls[:, :, None] * apart[:, None]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Of a [B, N, d] and b [B, L, d]: [B, N, L]. Not ``torch.cdist``, which is made for
    vectors longer than two or three numbers."""
    differences = (
        x[:, :, None] - y[:, None] for x, y in zip(a.unbind(-1), b.unbind(-1), strict=True)
    )
    total = next(differences).square()
    for difference in differences:
        total = total.addcmul(difference, difference)
    return total
