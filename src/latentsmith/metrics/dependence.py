"""Bias-corrected dependence of two sets of vectors: linear CKA and Szekely's distance correlation.

Both are the correlation of *U-centred* pair matrices (zero diagonal; Szekely & Rizzo, The distance
correlation t-test of independence, 2013): of squared distances for linear CKA (for which
U-centring leaves -2 times the U-centred Gram matrix, so this equals Song et al.'s unbiased HSIC,
Feature Selection via Dependence Maximization, JMLR 2012, eq. 4), of distances for distance
correlation. The biased forms read 0.94 and 0.74 on independent data and are not offered.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_paired
from latentsmith.metrics.intervals import permutation_mean, subsample_replicates
from latentsmith.metrics.pairdist import Vectors
from latentsmith.metrics.points import Points, submatrix
from latentsmith.metrics.registry import metric


def u_product(a: Tensor, b: Tensor) -> Tensor:
    """(A~ . B~) = 1/(n(n-3)) sum_{i != j} A~_ij B~_ij of two zero-diagonal symmetric [n, n].

    Expanded so that the centred matrices are never formed:
    <A,B> - 2/(n-2) sum_i a_i. b_i. + a.. b.. / ((n-1)(n-2)).
    """
    n = len(a)
    row_a, row_b = a.sum(1), b.sum(1)
    inner = torch.dot(a.reshape(-1), b.reshape(-1))
    centred = (
        inner
        - 2 / (n - 2) * torch.dot(row_a, row_b)
        + row_a.sum() * row_b.sum() / ((n - 1) * (n - 2))
    )
    return centred / (n * (n - 3))


def u_correlation(a: Tensor, b: Tensor, what: str = "U-centred correlation") -> float:
    """U-product of a and b over the root of their own U-products; unbiased near 0, at most 1.

    Raises:
        UserError: a side has no spread left after centring.
    """
    a, b = _level(a), _level(b)
    own_a, own_b = float(u_product(a, a)), float(u_product(b, b))
    if own_a <= 1e-14 or own_b <= 1e-14:
        raise UserError(f"{what} is undefined: one side has no structure beyond its mean distance.")
    return float(u_product(a, b)) / (own_a * own_b) ** 0.5


def _level(a: Tensor) -> Tensor:
    """Off-diagonal entries over their mean, minus 1: U-centring ignores it, digits are kept."""
    n = len(a)
    out = a * (n * (n - 1) / a.sum()) - 1.0
    return out.fill_diagonal_(0.0)


def _pair(latents: Vectors, reference: Vectors, what: str) -> tuple[Tensor, Tensor]:
    """Distances [N, N] of both sides."""
    z, r = Points.of(latents, "latents"), Points.of(reference, "reference")
    check_paired(z.x, r.x, z.name, r.name)
    check_count(len(z), 4, what)
    z.check_spread(what)
    r.check_spread(what)
    return z.distances, r.distances


def _correlate(latents: Vectors, reference: Vectors, what: str, power: int) -> float:
    a, b = _pair(latents, reference, what)
    return u_correlation(a**power, b**power, what)


def _replicates(what: str, power: int) -> Callable[..., Tensor | None]:
    def draw(latents, reference, *, value: float, replicates: int, seed: int) -> Tensor | None:
        a, b = _pair(latents, reference, what)

        def compute(i: Tensor) -> float:
            return u_correlation(submatrix(a, i) ** power, submatrix(b, i) ** power, what)

        return subsample_replicates(compute, value, len(a), replicates, seed)

    return draw


def _chance(what: str, power: int) -> Callable[..., tuple[float, dict[str, int]]]:
    def draw(latents, reference, *, seed: int) -> tuple[float, dict[str, int]]:
        a, b = _pair(latents, reference, what)

        def compute(i: Tensor, j: Tensor) -> float:
            return u_correlation(submatrix(a, i) ** power, submatrix(b, j) ** power, what)

        return permutation_mean(compute, len(a), seed)

    return draw


@metric(
    "cka_linear",
    help="linear CKA, unbiased (Song et al.): similarity of two representations up to rotation",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    replicates=_replicates("cka_linear", 2),
    baseline=_chance("cka_linear", 2),
)
def cka_linear(latents: Vectors, reference: Vectors) -> float:
    """HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with linear kernels; 0 when independent.

    Args:
        latents: [N, ...], flattened. reference: [N, D].

    Raises:
        UserError: fewer than 4 samples, collapsed points, NaN, unequal counts.
    """
    return _correlate(latents, reference, "cka_linear", 2)


@metric(
    "dcor_u",
    help="Szekely's distance correlation, squared and bias-corrected (U-statistic)",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    replicates=_replicates("dcor_u", 1),
    baseline=_chance("dcor_u", 1),
)
def dcor_u(latents: Vectors, reference: Vectors) -> float:
    """Bias-corrected *squared* distance correlation R*_n (Szekely & Rizzo 2013); 0 = independent.

    Can be slightly negative. Raises: as `cka_linear`.
    """
    return _correlate(latents, reference, "dcor_u", 1)
