"""Kernel distance between two sets of features: unbiased, so comparable across sample counts."""

import torch
from torch import Tensor

from latentsmith.metrics.checks import check_feature_pair
from latentsmith.metrics.intervals import bootstrap_weights
from latentsmith.metrics.registry import metric

_TILE = 1024
"""Side of the kernel's tiles: 8 MiB at a time, whatever the number of samples."""


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / D + 1)^3, [n, m]."""
    k = torch.addmm(x.new_ones(1, 1), x, y.T, alpha=1 / x.shape[1])
    return k * k * k


def _between(x: Tensor, y: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """Means [R] of the kernel over pairs of x [N, D], y [M, D] weighted by w [N, R], v [M, R]."""
    total = x.new_zeros(w.shape[1])
    for i in range(0, len(x), _TILE):
        for j in range(0, len(y), _TILE):
            k = _kernel(x[i : i + _TILE], y[j : j + _TILE])
            total += ((k @ v[j : j + _TILE]) * w[i : i + _TILE]).sum(0)
    return total / (w.sum(0) * v.sum(0))


def _within(x: Tensor, w: Tensor) -> Tensor:
    """Means [R] of the kernel over pairs of different samples of x; copies are no pair."""
    total = x.new_zeros(w.shape[1])
    for i in range(0, len(x), _TILE):
        for j in range(i, len(x), _TILE):  # the kernel is symmetric
            k = _kernel(x[i : i + _TILE], x[j : j + _TILE])
            if i == j:
                k.fill_diagonal_(0)
            times = 1 if i == j else 2
            total += times * ((k @ w[j : j + _TILE]) * w[i : i + _TILE]).sum(0)
    return total / (w.sum(0) ** 2 - w.square().sum(0))


def kid_draws(
    features: Tensor, features_ref: Tensor, *, replicates: int, seed: int
) -> tuple[float, Tensor]:
    """`kid` and its bootstrap values [R] over samples of both sides, in one pass over the kernel.

    Raises: as `kid`.
    """
    x, y = check_feature_pair(features, features_ref)

    def weights(n: int, seed: int) -> Tensor:
        once = torch.ones(n, 1, dtype=torch.float64)
        drawn = bootstrap_weights(n, replicates, seed) if replicates else once[:, :0]
        return torch.cat([once, drawn], 1).to(x.device)

    w, v = weights(len(x), 2 * seed), weights(len(y), 2 * seed + 1)
    found = _within(x, w) + _within(y, v) - 2 * _between(x, y, w, v)
    return float(found[0]), found[1:]


def _replicates(
    features: Tensor, features_ref: Tensor, *, value: float, replicates: int, seed: int
) -> Tensor:
    return kid_draws(features, features_ref, replicates=replicates, seed=seed)[1]


@metric(
    "kid",
    help="kernel distance of feature sets, unbiased (KID's formula; named kid_<feature space>)",
    inputs=("features", "features_ref"),
    higher_is_better=False,
    replicates=_replicates,
)
def kid(features: Tensor, features_ref: Tensor) -> float:
    """Unbiased MMD^2 with the cubic polynomial kernel (Binkowski et al. 2018), on *all* samples.

    0 in expectation for one distribution at any n; can be slightly negative.

    Args:
        features: [N, D]. features_ref: [M, D].

    Raises:
        UserError: fewer than 2 rows, unequal widths, NaN.
    """
    return kid_draws(features, features_ref, replicates=0, seed=0)[0]
