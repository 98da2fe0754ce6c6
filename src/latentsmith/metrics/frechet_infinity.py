"""Fréchet distance at infinitely many generated samples, extrapolated (Chong & Forsyth 2020)."""

import torch
from torch import Tensor

from latentsmith.metrics.checks import check_count, check_feature_pair
from latentsmith.metrics.frechet import covariance_root, mean_and_root, nuclear_norm
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator


def frechet_at_counts(
    features: Tensor, features_ref: Tensor, counts: list[int], *, seed: int = 0
) -> Tensor:
    """Fréchet distances [len(counts)] of random subsets of ``features`` to all of the reference.

    The features are projected on the reference's root once; each count then costs one
    decomposition of size min(count, D).

    Raises: as `frechet_infinity`.
    """
    x, y = check_feature_pair(features, features_ref)
    mean, root = mean_and_root(y)
    projected = x @ root
    gen = generator("frechet-infinity", seed)
    found = []
    for count in counts:
        index = torch.randperm(len(x), generator=gen)[:count].to(x.device)
        some, a = x[index], projected[index]
        own = some.mean(0)
        spread = (some - own).square().sum() / (count - 1) + root.square().sum()
        a = (a - a.mean(0)) / (count - 1) ** 0.5
        if count > a.shape[1]:
            a = covariance_root(a.T @ a, count - 1)
        found.append((own - mean).square().sum() + spread - 2 * nuclear_norm(a))
    return torch.stack(found)


@metric(
    "fd_infinity",
    help="Frechet distance extrapolated to infinitely many generated samples, linear in 1/n",
    inputs=("features", "features_ref"),
    higher_is_better=False,
)
def frechet_infinity(
    features: Tensor, features_ref: Tensor, *, points: int = 15, least: float = 0.1, seed: int = 0
) -> float:
    """Intercept of a least-squares line through the Fréchet distances of ``points`` random subsets
    against 1/n; n runs evenly from ``least`` of the samples to all (the paper: 5,000 … 50,000).

    Free of the generated samples' bias where that is linear in 1/n, which needs n well above the
    features' effective dimensions; the reference's own (1/M) remains. Can be slightly negative.

    Args:
        features: generated [N, D]. features_ref: real [M, D].

    Raises:
        UserError: fewer than 2 samples in the smallest subset, unequal widths, NaN.
    """
    n = len(features)
    counts = torch.linspace(least * n, n, points).long().tolist()
    check_count(n, int(2 / least + 0.5), "fd_infinity")
    found = frechet_at_counts(features, features_ref, counts, seed=seed)
    inverse = 1 / torch.tensor(counts, dtype=torch.float64, device=found.device)
    centred = inverse - inverse.mean()
    slope = (centred @ found) / centred.square().sum()
    return float(found.mean() - slope * inverse.mean())
