"""Coordinates as cosines and sines of bounded frequency (Tancik et al. 2020, arXiv 2006.10739)."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from latentsmith.backbones.blocks.weights import Constant
from latentsmith.utils.seeding import generator


def wave_vectors(dims: int, count: int, scale: float, cutoff: float, seed: int) -> Tensor:
    """Gaussian wave vectors float64 [count, dims], in cycles over the domain [-1, 1].

    Drawn again until none is longer than ``cutoff``: samples R to a side carry no frequency above
    R / 2, and what a network does with higher ones between its samples, nobody has told it.
    """
    rng, kept = generator(seed, "wave vectors", dims), torch.empty(0, dims, dtype=torch.float64)
    while len(kept) < count:
        drawn = scale * torch.randn(4 * count, dims, generator=rng, dtype=torch.float64)
        kept = torch.cat([kept, drawn[drawn.norm(dim=1) <= cutoff]])
    return kept[:count]


class FourierFeatures(nn.Module):
    """Coordinates [..., d] in [-1, 1] → [..., 2 count + d]: cosines, sines, the coordinates.

    Args:
        dims: d.
        count: wave vectors.
        scale: their standard deviation, in cycles over the domain.
        cutoff: none is longer; see `wave_vectors`.
        seed: of the draw.
    """

    def __init__(self, dims: int, count: int, *, scale: float, cutoff: float, seed: int = 0):
        super().__init__()
        self.dims, self.width = dims, 2 * count + dims
        self.waves = Constant(partial(wave_vectors, dims, count, scale, cutoff, seed))

    def forward(self, coordinates: Tensor) -> Tensor:
        """float32 (float64 in a float64 network)."""
        waves = self.waves()
        x = coordinates.to(waves.dtype)
        angles = math.pi * x @ waves.mT  # the domain is 2 long: one cycle over it is π x
        return torch.cat([angles.cos(), angles.sin(), x], dim=-1)
