"""Sliced Wasserstein-2 distance: are two sets of latents of one shape, seen from many sides?

    SW2² = mean over directions u of ∫ (F⁻¹_{u·a}(q) − F⁻¹_{u·b}(q))² dq

Of each projection the quantile functions are compared, which in one dimension is the optimal
transport (Bonneel et al. 2015). Unlike the Fréchet distance it sees more than mean and covariance;
like it, it has a floor at a finite n: print `sliced_w2_floor` beside it.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.metrics.checks import check_count, check_feature_pair, check_finite
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator

_DIRECTIONS = 64
"""Projected at once: 64 x 10,000 float64 numbers are 5 MB."""


def directions(count: int, dim: int, seed: int) -> Tensor:
    """Random unit vectors float64 [count, dim]."""
    drawn = torch.randn(count, dim, generator=generator("sliced", seed, dim), dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def quantile_gap(a: Tensor, b: Tensor) -> Tensor:
    """∫ (F⁻¹_a − F⁻¹_b)² over quantiles of each row, exact for any two counts.

    Args:
        a: *sorted* rows [S, N]. b: sorted rows [S, M].

    Returns:
        [S].
    """
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return (a - b).square().mean(1)
    # both quantile functions are steps; between two neighboring breaks neither moves
    breaks = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    widths = torch.diff(breaks, prepend=breaks.new_zeros(1)).to(a) / (n * m)
    at_a, at_b = (breaks - 1) // m, (breaks - 1) // n
    return ((a[:, at_a] - b[:, at_b]).square() * widths).sum(1)


@metric(
    "sliced_w2",
    help="sliced Wasserstein-2 distance of two sets of latents",
    inputs=("features", "features_ref"),
    higher_is_better=False,
    best=0.0,
)
def sliced_w2(
    features: Tensor, features_ref: Tensor, *, projections: int = 256, direction_seed: int = 0
) -> float:
    """Square root of the mean over ``projections`` random directions of the squared
    one-dimensional W2 distance; in the latents' units.

    Args:
        features: [N, D]. features_ref: [M, D].

    Raises:
        UserError: fewer than 2 rows, unequal widths, NaN.
    """
    a, b = check_feature_pair(features, features_ref)
    total = a.new_zeros(())
    for some in directions(projections, a.shape[1], direction_seed).to(a).split(_DIRECTIONS):
        total += quantile_gap(*((some @ x.T).sort(1).values for x in (a, b))).sum()
    return float((total / projections).sqrt())


def sliced_w2_floor(
    train: Tensor, test: Tensor, count: int, *, projections: int = 256, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """What ``count`` latents of the true distribution get: the distance of so many drawn training
    latents [M, D] to the test latents [N, D].

    Returns (floor, how it was made). Raises UserError as `sliced_w2`.
    """
    check_finite(train, "train")
    check_count(len(train), 2, "the floor of sliced_w2", "training latents")
    used = min(count, len(train))
    drawn = torch.randperm(len(train), generator=generator("floor", seed))[:used]
    value = sliced_w2(train[drawn], test, projections=projections)
    return value, {"floor": f"{used} training latents against {len(test)} test latents"}
