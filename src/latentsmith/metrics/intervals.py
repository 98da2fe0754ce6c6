"""95 % intervals by resampling *samples*, never pairs (pairs of one sample are not independent)."""

from collections.abc import Callable

import torch
from torch import Tensor

from latentsmith.utils.seeding import generator

LEVEL = 0.95


def percentiles(replicates: Tensor) -> tuple[float, float]:
    """The central 95 % of bootstrap replicates [R], as (low, high)."""
    tail = (1 - LEVEL) / 2
    q = torch.tensor([tail, 1 - tail], dtype=torch.float64, device=replicates.device)
    low, high = replicates.double().quantile(q).tolist()
    return low, high


def bootstrap_weights(n: int, replicates: int, seed: int) -> Tensor:
    """How often each of n samples is drawn, float64 [n, R]: multinomial(n, 1/n) per replicate."""
    draws = torch.randint(n, (n, replicates), generator=generator("bootstrap", seed))
    weights = torch.zeros(n, replicates, dtype=torch.float64)
    return weights.scatter_add_(0, draws, torch.ones_like(draws, dtype=torch.float64))


def bootstrap_mean(per_sample: Tensor, replicates: int, seed: int) -> Tensor:
    """Bootstrap replicates [R] of the mean of per-sample values [N]."""
    values = per_sample.detach().double().cpu()
    return values @ bootstrap_weights(len(values), replicates, seed) / len(values)


def subsample_replicates(
    compute: Callable[[Tensor], float], value: float, n: int, replicates: int, seed: int
) -> Tensor | None:
    """Replicates [R] for statistics that a bootstrap's duplicates would bias (U-statistics).

    ``compute(index)`` gives the statistic of a subset. Draws subsets of m points without
    replacement; the deviations from ``value`` are shrunk by sqrt(m / (n - m)), the ratio of the
    standard errors at n and at m for a root-n statistic (Politis, Romano & Wolf, Subsampling,
    1999, with the finite-population correction). None below 16 points: too few to subsample.
    """
    if n < 16:
        return None
    m = min(n // 2, 256)
    gen = generator("subsample", seed)
    draws = [compute(torch.randperm(n, generator=gen)[:m].sort().values) for _ in range(replicates)]
    deviation = torch.tensor(draws, dtype=torch.float64) - value
    return value + (m / (n - m)) ** 0.5 * deviation


def permutation_mean(
    compute: Callable[[Tensor, Tensor], float], n: int, seed: int, *, draws: int = 8
) -> tuple[float, dict[str, int]]:
    """Mean of ``compute(index, shuffled index)`` over random pairings: what chance gives.

    At most 1024 points are used (the expectation hardly depends on N, the cost on N^2).
    Returns (mean, how it was made, for the stamp).
    """
    gen = generator("permutation", seed)
    m = min(n, 1024)
    total = 0.0
    for _ in range(draws):
        index = torch.randperm(n, generator=gen)[:m]
        total += compute(index, index[torch.randperm(m, generator=gen)])
    return total / draws, {"permutations": draws, "permutation_points": m}
