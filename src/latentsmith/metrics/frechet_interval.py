"""How far a Fréchet distance would move with other generated samples: influence of each sample.

The bootstrap is wrong here. Copies of a sample lower the rank of the covariance, and the distance's
bias (linear in 1/n) counts them: all replicates lie above the value (by 50 % of it at n = 3 D for
one Gaussian) and spread up to five times too wide where n < D. Subsets of n / 2 without replacement
have the right spread but need an eigenproblem each.

Used instead: the infinitesimal jackknife. With the reference fixed, the distance is a smooth
function of the generated samples' weights, and its derivative is known in closed form:

    I_i = 2 (m - mu)'(x_i - m) + n/(n-1) (|x_i - m|^2 - a_i' (R'S R)^(-1/2) a_i), centred,
    a_i = R'(x_i - m)

(m, S of the generated, mu and R R' of the reference). The distance's standard error is the
deviation of I over √n; means of I under bootstrap weights give draws, which pair between two
generators started from the same noise. Against the spread over 120 newly drawn sample sets of known
Gaussians and t-distributions the standard error was 1.01 … 1.26 times the truth for n ≥ 2 D (95 %
intervals held it 94 … 99 times in 100 for Gaussians, 88 … 92 for heavy tails), and up to 1.6 times
too large, on the safe side, for n ≤ D.

The interval is for the distance *at this n against this reference*: it does not hold the bias,
which the floor shows, nor what other training seeds give.
"""

import torch
from torch import Tensor

from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.intervals import bootstrap_mean


def frechet_influence(features: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """Influence [N] of each generated sample on the Fréchet distance to a reference; sums to 0.

    Args:
        features: generated [N, D].
        mean: of the reference [D]. root: R [D, r] with R R' = its covariance.

    One eigenproblem of size min(N, r).
    """
    x = check_finite(features.detach(), "features").double()
    check_count(len(x), 3, "the interval of a Frechet distance")
    own = x.mean(0)
    x = x - own
    a = x @ root / (len(x) - 1) ** 0.5
    tiny = len(x) * torch.finfo(torch.float64).eps
    if len(a) < a.shape[1]:
        values, vectors = torch.linalg.eigh(a @ a.T)  # diagonal of (A A')^(1/2)
        cross = vectors.square() @ values.clamp_min(0).sqrt()
    else:
        values, vectors = torch.linalg.eigh(a.T @ a)
        keep = values > tiny * values[-1].clamp_min(1e-300)
        cross = (a @ vectors[:, keep]).square() @ values[keep].rsqrt()
    n = len(x)
    out = 2 * x @ (own - mean) + n / (n - 1) * x.square().sum(1) - n * cross
    return out - out.mean()


def frechet_draws(value: float, influence: Tensor, replicates: int, seed: int) -> Tensor:
    """Draws [R] of the Fréchet distance ``value``: its linear part under bootstrap weights."""
    return value + bootstrap_mean(influence, replicates, seed)
