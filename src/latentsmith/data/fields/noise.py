"""Noise that is a function of the coordinate: smooth, seeded, the same in every set of points.

    n(c) = Σ_k (a_k cos 2π(f_k·c) + b_k sin 2π(f_k·c)) / √F,   a, b ~ N(0, 1)

Random Fourier features (Rahimi & Recht 2007): a Gaussian process with mean 0, variance 1 and no
frequency above the band limit. White noise has no values between its samples; a flow that starts
from this noise starts from one function at 32, 64 and 96 points.

Equal coordinates give equal bits, whatever the other points, the batch, the threads or the device.
Matrix products sum in an order that depends on their shape, so everything summed here is a whole
number small enough to be exact in float64, in any order; sines come from a table, since those of
two devices differ; what is left rounds once per operation, as IEEE says.
"""

import math

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.utils.constant import constant
from latentsmith.utils.seeding import generator

TURN = 1 << 16
"""Entries of the table of sines: a step of 1e-4 rad, far below what a network can see."""
UNIT = 1 << 16
"""Sines and weights are multiples of 1 / UNIT: products up to 2^36, so that sums of
2^17 of them are exact in float64."""
MOST_FEATURES = 1 << 16
LARGEST = 16.0
"""Weights are cut here; a normal number gets there once in 10^57."""


class SmoothNoise:
    """Functions of the coordinate, one for each sample, made of its weights.

    Args:
        channels: numbers at each point.
        dims: of the coordinates in [-1, 1].
        band_limit: highest frequency, in cycles across the domain. A lattice of R points carries
            up to R / 2 (16 for 32 points): above that, its points see noise that is nearly white.
        features: frequencies F; more make values far apart less dependent (correlation of about
            1 / √(2F)).
        seed: of the frequencies, which all samples share.

    Attributes:
        shape: of one sample's weights, [2F, C]: draw standard normal numbers of this shape with
            the step's generator or `latentsmith.sampling.noise.starting_noise`.

    Raises:
        UserError: no features, no channel, a band limit that is not positive.
    """

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        *,
        band_limit: float = 16.0,
        features: int = 128,
        seed: int = 0,
    ):
        fits = channels >= 1 and 1 <= features <= MOST_FEATURES and 1 <= dims <= 3
        if not fits or not band_limit > 0:
            raise UserError(
                f"smooth noise needs channels >= 1, 1 to {MOST_FEATURES} features, band_limit > 0 "
                f"and 1 to 3 dims, got channels={channels}, features={features}, "
                f"band_limit={band_limit}, dims={dims}."
            )
        self.channels, self.dims, self.band_limit = channels, dims, band_limit
        self.shape = (2 * features, channels)
        self._frequencies = _ball(features, dims, seed) * (band_limit / 2)  # cycles per unit

    def __call__(self, weights: Tensor, coordinates: Tensor) -> Tensor:
        """The noise at points.

        Args:
            weights: standard normal [B, *shape], see `shape`.
            coordinates: [B, M, d] or [1, M, d], in [-1, 1].

        Returns:
            float32 [B, M, C].
        """
        basis = self._basis(coordinates)
        total = basis.double() @ _whole(weights).to(basis.device)
        return (total * (1 / (UNIT * UNIT * math.sqrt(self.shape[0] // 2)))).float()

    def _basis(self, coordinates: Tensor) -> Tensor:
        """Cosines, then sines, times `UNIT` as whole numbers: float32 [B, M, 2F]."""
        points = coordinates.float()
        turns = torch.zeros((), device=points.device)
        for along, f in zip(
            points.unbind(-1), self._frequencies.to(points.device).unbind(1), strict=True
        ):
            turns = turns + along[..., None] * f  # not fused: each operation rounds by itself
        index = (turns * TURN).floor().int() & (TURN - 1)
        table = _cosines(points.device)
        return torch.cat([table[index], table[(index - TURN // 4) & (TURN - 1)]], dim=-1)


def _whole(weights: Tensor) -> Tensor:
    """Weights times `UNIT` as whole numbers, float64."""
    return (weights.double().clamp(-LARGEST, LARGEST) * UNIT).round()


@constant
def _cosines(device: torch.device) -> Tensor:
    """cos of k / TURN turns, times `UNIT`, rounded: float32 [TURN]. Exact: below 2^24."""
    turns = torch.arange(TURN, dtype=torch.float64) / TURN
    return ((2 * math.pi * turns).cos() * UNIT).round().float().to(device)


def _ball(count: int, dims: int, seed: int) -> Tensor:
    """Points uniform in the unit ball, float32 [count, d]."""
    rng = generator(seed, "noise frequencies", count, dims)
    direction = torch.randn(count, dims, generator=rng, dtype=torch.float64)
    radius = torch.rand(count, 1, generator=rng, dtype=torch.float64) ** (1 / dims)
    return (direction / direction.norm(dim=1, keepdim=True) * radius).float()
