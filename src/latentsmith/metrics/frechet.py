"""Fréchet distance between two sets of features, and what the same distribution gives at this n.

|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017).
Its expectation falls like 1/n even for one distribution: print n beside it, compare equal n only.
It is called FID on Inception features only; elsewhere its name is ``fd_<space>``.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator


def trace_sqrt_product(cov_1: Tensor, cov_2: Tensor) -> float:
    """tr((S_1 S_2)^(1/2)) of two positive semi-definite float64 [D, D].

    = tr((S_1^(1/2) S_2 S_1^(1/2))^(1/2)): two symmetric eigenproblems, never complex.
    """
    values, vectors = torch.linalg.eigh(cov_1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return float(torch.linalg.eigvalsh(root @ cov_2 @ root).clamp_min(0).sqrt().sum())


def frechet_from_stats(a: FeatureStats, b: FeatureStats) -> float:
    """Fréchet distance of two statistics of one feature space (UserError otherwise)."""
    a.check_same_space(b)
    cov_a, cov_b = a.cov, b.cov
    mean = float((a.mean - b.mean).square().sum())
    spread = float(cov_a.trace() + cov_b.trace()) - 2 * trace_sqrt_product(cov_a, cov_b)
    return max(mean + spread, 0.0)


def _few(a: Tensor, b: Tensor) -> float:
    """With fewer samples than dimensions: tr (S_1 S_2)^(1/2) is a nuclear norm, exact and fast.

    S_1 = X'X/(n-1), S_2 = Y'Y/(m-1) share their nonzero singular values' sum with
    ||X Y'||_* / sqrt((n-1)(m-1)).
    """
    mean = float((a.mean(0) - b.mean(0)).square().sum())
    a, b = a - a.mean(0), b - b.mean(0)
    n, m = len(a) - 1, len(b) - 1
    cross = torch.linalg.svdvals(a @ b.T).sum() / (n * m) ** 0.5
    return max(mean + float(a.square().sum() / n + b.square().sum() / m - 2 * cross), 0.0)


def _features(features: Tensor, name: str) -> Tensor:
    if features.ndim != 2:
        raise UserError(f"{name} must be [N, D], got {list(features.shape)}.")
    check_count(len(features), 2, f"the Frechet distance of {name}")
    return check_finite(features.detach(), name).double()


@metric(
    "fd",
    help="Frechet distance of feature sets (FID's formula; named fd_<feature space>)",
    inputs=("features", "features_ref"),
    higher_is_better=False,
    best=0.0,
)
def frechet_distance(features: Tensor, features_ref: Tensor) -> float:
    """Fréchet distance of two feature sets [N, D], [M, D], float64.

    Raises:
        UserError: fewer than 2 rows, unequal widths, NaN.
    """
    a, b = _features(features, "features"), _features(features_ref, "features_ref")
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"features are {a.shape[1]} wide and features_ref {b.shape[1]}: two feature spaces."
        )
    if min(len(a), len(b)) < a.shape[1]:
        return _few(a, b)
    return frechet_from_stats(FeatureStats.of(a, "features"), FeatureStats.of(b, "features"))


def frechet_floor(
    features_ref: Tensor, count: int, *, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """Expected Fréchet distance of two sets of ``count`` from one distribution.

    Measured between disjoint random halves (m each) of the reference and scaled by m / count,
    as the bias is linear in 1/n (Chong & Forsyth, Effectively Unbiased FID, 2020).
    Returns (floor, how it was made).
    """
    features_ref = _features(features_ref, "features_ref")
    check_count(len(features_ref), 4, "the same-distribution floor")
    m = len(features_ref) // 2
    order = torch.randperm(len(features_ref), generator=generator("floor", seed))
    distance = frechet_distance(features_ref[order[:m]], features_ref[order[m : 2 * m]])
    return distance * m / count, {"floor_halves": m}
