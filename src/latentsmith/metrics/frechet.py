"""Fréchet distance between two sets of features, and what the same distribution gives at this n.

|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017).

How: with any roots R R' = S, tr((S_1 S_2)^(1/2)) is the nuclear norm |R_1' R_2|_*. Roots are
triangular (Cholesky, D^3 / 3 operations) where there are more samples than dimensions, else the
centred samples themselves (exact, and the singular values of an n x m matrix only). No square root
of an eigenvalue of S_1 S_2 is taken: that would turn rounding of 1e-16 into 1e-8, per dimension.

Its expectation falls like 1/n even for one distribution: print n beside it, compare equal n only.
It is called FID on Inception features only (`latentsmith.metrics.frechet_name`); elsewhere its name
is ``fd_<space>``.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.metrics.checks import check_count, check_feature_pair, check_finite
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator


def covariance_root(cov: Tensor, rank: int) -> Tensor:
    """R [D, r] with R R' = cov, for a positive semi-definite float64 [D, D].

    Args:
        rank: its rank at most; n - 1 for the covariance of n samples.

    Cholesky where the rank may be full, else (or where rounding made it indefinite) the
    eigenvectors of the ``rank`` largest eigenvalues: the others are rounding.
    """
    if rank >= len(cov):
        root, failed = torch.linalg.cholesky_ex(cov)
        if not failed:
            return root
    values, vectors = torch.linalg.eigh(cov)
    keep = values > len(cov) * torch.finfo(cov.dtype).eps * values[-1]
    keep[: max(len(cov) - rank, 0)] = False
    return vectors[:, keep] * values[keep].sqrt()


def trace_sqrt_product(cov_1: Tensor, cov_2: Tensor) -> float:
    """tr((S_1 S_2)^(1/2)) of two positive semi-definite float64 [D, D]."""
    root_1, root_2 = (covariance_root(cov, len(cov)) for cov in (cov_1, cov_2))
    return nuclear_norm(root_1.T @ root_2)


def nuclear_norm(x: Tensor) -> float:
    """Sum of singular values of a float64 matrix."""
    return float(torch.linalg.svdvals(x).sum()) if x.numel() else 0.0


def frechet_from_stats(a: FeatureStats, b: FeatureStats) -> float:
    """Fréchet distance of two statistics of one feature space (UserError otherwise)."""
    a.check_same_space(b)
    cov_a, cov_b = a.cov, b.cov
    mean = float((a.mean - b.mean).square().sum())
    cross = covariance_root(cov_a, a.n - 1).T @ covariance_root(cov_b, b.n - 1)
    return max(mean + float(cov_a.trace() + cov_b.trace()) - 2 * nuclear_norm(cross), 0.0)


def mean_and_root(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance root [D, r] of float64 features [N, D], r = min(N, D)."""
    mean = x.mean(0)
    x = (x - mean) / (len(x) - 1) ** 0.5
    return mean, x.T if len(x) <= x.shape[1] else covariance_root(x.T @ x, len(x) - 1)


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
    (mean_a, a), (mean_b, b) = map(mean_and_root, check_feature_pair(features, features_ref))
    spread = a.square().sum() + b.square().sum()
    value = (mean_a - mean_b).square().sum() + spread - 2 * nuclear_norm(a.T @ b)
    return max(float(value), 0.0)


def frechet_floor(
    features_ref: Tensor, count: int, *, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """Expected Fréchet distance of two sets of ``count`` from one distribution.

    Measured between disjoint random halves (m each) of the reference and scaled by m / count,
    as the bias is linear in 1/n (Chong & Forsyth, Effectively Unbiased FID, 2020).
    Returns (floor, how it was made).
    """
    check_finite(features_ref, "features_ref")
    check_count(len(features_ref), 4, "the same-distribution floor")
    m = len(features_ref) // 2
    order = torch.randperm(len(features_ref), generator=generator("floor", seed))
    distance = frechet_distance(features_ref[order[:m]], features_ref[order[m : 2 * m]])
    return distance * m / count, {"floor_halves": m}


def reference_floor(
    features_ref: Tensor, count: int, *, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """Expected Fréchet distance of ``count`` new samples of the reference's own distribution to the
    reference's statistics (all M rows of features_ref [M, D]).

    Measured: m = min(count, M / 2) random rows against the other M - m, which differs from what is
    wanted by a factor linear in 1/n at most 2 (none in m when the reference is twice as large).
    Returns (floor, how it was made).
    """
    x = check_finite(features_ref, "features_ref")
    total = len(features_ref)
    check_count(total, 4, "the same-distribution floor")
    m = min(count, total // 2)
    order = torch.randperm(total, generator=generator("floor", seed))
    distance = frechet_distance(x[order[:m]], x[order[m:]])
    scale = (1 / count + 1 / total) / (1 / m + 1 / (total - m))
    return distance * scale, {"floor": f"{m} of the reference against the other {total - m}"}


def gaussian_floor(
    reference: FeatureStats, count: int, *, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """As `reference_floor` where only statistics are at hand: ``count`` draws of the Gaussian that
    has them, and count / M more for the reference's own error.

    Real features have heavier tails than a Gaussian, so theirs lies somewhat higher.
    """
    root = covariance_root(reference.cov, reference.n - 1)
    gen = generator("gaussian-floor", seed)
    draws = torch.randn(count, root.shape[1], generator=gen, dtype=torch.float64) @ root.T
    mean, made = mean_and_root(draws)
    spread = made.square().sum() + root.square().sum() - 2 * nuclear_norm(made.T @ root)
    value = max(float(mean.square().sum() + spread), 0.0) * (1 + count / reference.n)
    return value, {"floor": "Gaussian draws of the reference's statistics"}
