"""Intrinsic dimension of a latent cloud: TwoNN and the Levina-Bickel maximum likelihood estimate.

Both see the scale of the nearest neighbours only: they depend on N (state it), grow with noise,
and read low in high dimension (9.0 and 8.7 for a true 10 at N = 2000). Compare models at equal N.
Exact duplicates carry no scale and are counted once.
"""

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count
from latentsmith.metrics.intervals import bootstrap_weights
from latentsmith.metrics.pairdist import Vectors
from latentsmith.metrics.points import Points
from latentsmith.metrics.registry import metric
from latentsmith.utils.seeding import generator


def _distinct(latents: Vectors, least: int, what: str) -> Points:
    """Distinct points, at least ``least`` of them."""
    z = Points.of(latents, "latents")
    check_count(len(z), least, what)
    distinct = z.first_copies()
    if len(distinct) < least:
        raise UserError(
            f"{what} needs at least {least} distinct latents, got {len(distinct)} "
            f"(of {len(z)}; the others are exact duplicates)."
        )
    return z if len(distinct) == len(z) else z.subset(distinct)


def _log_ratios(latents: Vectors) -> Tensor:
    """log(r2 / r1) [N] of each distinct point's second and first neighbour distance."""
    r = _distinct(latents, 8, "id_twonn").nearest(2)[0]
    return (r[:, 1] / r[:, 0]).log()


def _twonn_fit(log_mu: Tensor, discard: float) -> float:
    """Slope through 0 of -log(1 - F) against log mu, leaving out the largest ratios."""
    n = len(log_mu)
    keep = int(n * (1 - discard))
    x = log_mu.sort().values[:keep]
    if float(x[-1]) == 0:
        raise UserError(
            "id_twonn is undefined: every latent's first two neighbors are equally far."
        )
    y = -torch.log1p(-torch.arange(1, keep + 1, dtype=x.dtype, device=x.device) / n)
    return float((x * y).sum() / (x * x).sum())


def _twonn_replicates(
    latents: Vectors, *, value: float, replicates: int, seed: int, discard: float
) -> Tensor:
    log_mu = _log_ratios(latents)
    gen = generator("bootstrap", seed)
    n = len(log_mu)
    draws = (torch.randint(n, (n,), generator=gen).to(log_mu.device) for _ in range(replicates))
    return torch.tensor([_twonn_fit(log_mu[index], discard) for index in draws])


@metric(
    "id_twonn",
    help="intrinsic dimension by TwoNN (ratio of the first two neighbor distances)",
    inputs=("latents",),
    higher_is_better=None,
    replicates=_twonn_replicates,
)
def id_twonn(latents: Vectors, *, discard: float = 0.1) -> float:
    """Facco et al., Scientific Reports 2017: linear fit without the largest 10 % of ratios.

    Args:
        latents: [N, ...], flattened.
        discard: share of the largest ratios left out of the fit.

    Raises:
        UserError: fewer than 8 distinct latents, NaN.
    """
    return _twonn_fit(_log_ratios(latents), discard)


def _inverse_local(latents: Vectors, k: int) -> Tensor:
    """1 / m_k(x) [N]: mean of log(r_k / r_j) over the k - 1 nearer neighbours."""
    r = _distinct(latents, k + 1, f"id_mle with k = {k}").nearest(k)[0]
    return (r[:, -1:] / r[:, :-1]).log().mean(1)


def _mle_replicates(
    latents: Vectors, *, value: float, replicates: int, seed: int, k: int
) -> Tensor:
    inverse = _inverse_local(latents, k).cpu()
    return len(inverse) / (inverse @ bootstrap_weights(len(inverse), replicates, seed))


@metric(
    "id_mle",
    help="intrinsic dimension by maximum likelihood (Levina-Bickel, MacKay's averaging)",
    inputs=("latents",),
    higher_is_better=None,
    replicates=_mle_replicates,
)
def id_mle(latents: Vectors, *, k: int = 20) -> float:
    """1 / mean over points of 1 / m_k (Levina & Bickel 2004, averaged as MacKay & Ghahramani).

    Args:
        latents: [N, ...], flattened.
        k: neighbours per point.

    Raises:
        UserError: fewer than k + 1 distinct latents, equidistant latents, NaN.
    """
    mean = float(_inverse_local(latents, k).mean())
    if mean <= 1e-12:
        raise UserError("id_mle is undefined: the latents are all equally far from each other.")
    return 1 / mean
