"""Do distances between latents follow distances in a reference space?

``pairdist_pearson`` and ``pairdist_spearman`` are the correlations of the two sets of pair
distances d_Z(i, j), d_R(i, j) over i < j: Mantel's r, or RSA. MM-Reg's source calls this "distance
correlation", which it is not in Szekely's sense (that is `dcor_u`). The zero diagonal stays out:
with it, independent data show 0.98 at 64 points.

Intervals: bootstrap over *points*. A replicate weights point i by how often it was drawn, w_i,
and pair (i, j) by w_i w_j, i != j: copies of one point are not a pair, so the false zero distances
of a naive bootstrap never enter. For Spearman the ranks of the full sample are kept (re-ranking
each replicate would cost a sort of all pairs; the difference is of second order).
"""

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_paired
from latentsmith.metrics.intervals import bootstrap_weights, permutation_mean
from latentsmith.metrics.points import Points, submatrix
from latentsmith.metrics.registry import metric

Vectors = Tensor | Points
_ROWS = 512


def _pair(latents: Vectors, reference: Vectors, what: str) -> tuple[Points, Points]:
    """Both as Points over the same samples, at least 4 of them, neither collapsed."""
    z, r = Points.of(latents, "latents"), Points.of(reference, "reference")
    check_paired(z.x, r.x, z.name, r.name)
    check_count(len(z), 4, what)
    z.check_spread(what)
    r.check_spread(what)
    return z, r


def _off_diagonal_moments(d: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the off-diagonal entries of a zero-diagonal [N, N]."""
    pairs = len(d) * (len(d) - 1)
    mean = float(d.sum()) / pairs
    # The diagonal's N terms (0 - mean)^2 are taken out of the sum again.
    square = sum(float((b - mean).square().sum()) for b in d.split(_ROWS)) - len(d) * mean**2
    return mean, (max(square, 0.0) / pairs) ** 0.5


def off_diagonal_correlation(a: Tensor, b: Tensor, what: str = "pairdist_pearson") -> float:
    """Pearson correlation of the off-diagonal entries of two symmetric [N, N]; float64.

    Raises:
        UserError: one side's off-diagonal entries are all equal.
    """
    (mean_a, sd_a), (mean_b, sd_b) = _off_diagonal_moments(a), _off_diagonal_moments(b)
    # The sums' own rounding leaves a deviation of about 1e-8 of the mean where there is none.
    if sd_a <= 1e-7 * abs(mean_a) or sd_b <= 1e-7 * abs(mean_b):
        side = "latents" if sd_a <= 1e-7 * abs(mean_a) else "reference"
        raise UserError(f"{what} is undefined: all pair distances of the {side} are equal.")
    cross = sum(
        float(((p - mean_a) * (q - mean_b)).sum())
        for p, q in zip(a.split(_ROWS), b.split(_ROWS), strict=True)
    )
    pairs = len(a) * (len(a) - 1)
    return (cross - len(a) * mean_a * mean_b) / (pairs * sd_a * sd_b)


def _weighted_sums(a: Tensor, b: Tensor, replicates: int, seed: int, *, centre: bool) -> Tensor:
    """Bootstrap means over pairs [5, R]: of A², B², AB and, with ``centre``, of A and B.

    float32 products on standardised entries: good to 1e-5, far below the interval's own noise.
    """
    n = len(a)
    moments = [_off_diagonal_moments(m) for m in (a, b)]
    (mean_a, sd_a), (mean_b, sd_b) = moments if centre else [(0.0, s or m) for m, s in moments]
    w64 = bootstrap_weights(n, replicates, seed).to(a.device)
    w = w64.float()
    sums = torch.zeros(5 if centre else 3, replicates, dtype=torch.float64, device=a.device)
    for rows in torch.arange(n, device=a.device).split(_ROWS):
        x = ((a[rows] - mean_a) / sd_a).float()
        y = ((b[rows] - mean_b) / sd_b).float()
        diagonal = torch.arange(len(rows), device=a.device)
        x[diagonal, rows] = 0.0
        y[diagonal, rows] = 0.0
        for k, entries in enumerate((x * x, y * y, x * y, x, y)[: len(sums)]):
            sums[k] += ((entries @ w) * w[rows]).double().sum(0)
    return sums / (n**2 - w64.square().sum(0))


def _correlation_replicates(a: Tensor, b: Tensor, replicates: int, seed: int) -> Tensor:
    """Bootstrap replicates [R] of the off-diagonal correlation of two [N, N]."""
    maa, mbb, mab, ma, mb = _weighted_sums(a, b, replicates, seed, centre=True)
    spread = ((maa - ma**2) * (mbb - mb**2)).clamp_min(1e-30).sqrt()
    return ((mab - ma * mb) / spread).clamp(-1.0, 1.0)


def _pearson_replicates(
    latents: Vectors, reference: Vectors, *, value: float, replicates: int, seed: int
) -> Tensor:
    z, r = _pair(latents, reference, "pairdist_pearson")
    return _correlation_replicates(z.distances, r.distances, replicates, seed)


def _spearman_replicates(
    latents: Vectors, reference: Vectors, *, value: float, replicates: int, seed: int
) -> Tensor:
    z, r = _pair(latents, reference, "pairdist_spearman")
    return _correlation_replicates(z.distance_ranks, r.distance_ranks, replicates, seed)


def _pearson_chance(latents: Vectors, reference: Vectors, *, seed: int):
    z, r = _pair(latents, reference, "pairdist_pearson")
    return permutation_mean(
        lambda i, j: off_diagonal_correlation(submatrix(z.distances, i), submatrix(r.distances, j)),
        len(z),
        seed,
    )


def _spearman_chance(latents: Vectors, reference: Vectors, *, seed: int):
    z, r = _pair(latents, reference, "pairdist_spearman")
    return permutation_mean(
        lambda i, j: off_diagonal_correlation(
            submatrix(z.distance_ranks, i), submatrix(r.distance_ranks, j)
        ),
        len(z),
        seed,
    )


@metric(
    "pairdist_pearson",
    help="Pearson correlation of pair distances, latents against a reference (RSA, Mantel r)",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    replicates=_pearson_replicates,
    baseline=_pearson_chance,
)
def pairdist_pearson(latents: Vectors, reference: Vectors) -> float:
    """corr over i < j of ``|z_i - z_j|`` and ``|r_i - r_j|``.

    Args:
        latents: [N, ...], flattened. reference: [N, D].

    Raises:
        UserError: fewer than 4 samples, collapsed or equidistant points, NaN, unequal counts.
    """
    z, r = _pair(latents, reference, "pairdist_pearson")
    return off_diagonal_correlation(z.distances, r.distances)


@metric(
    "pairdist_spearman",
    help="rank correlation of pair distances, latents against a reference (RSA)",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    replicates=_spearman_replicates,
    baseline=_spearman_chance,
)
def pairdist_spearman(latents: Vectors, reference: Vectors) -> float:
    """Pearson correlation of the exact average ranks of the pair distances.

    Raises: as `pairdist_pearson`.
    """
    z, r = _pair(latents, reference, "pairdist_spearman")
    return off_diagonal_correlation(z.distance_ranks, r.distance_ranks, "pairdist_spearman")


def _stress_replicates(
    latents: Vectors, reference: Vectors, *, value: float, replicates: int, seed: int
) -> Tensor:
    z, r = _pair(latents, reference, "pairdist_stress")
    zz, rr, zr = _weighted_sums(z.distances, r.distances, replicates, seed, centre=False)
    return (1 - zr**2 / (zz * rr)).clamp_min(0.0).sqrt()


@metric(
    "pairdist_stress",
    help="normalized stress: relative misfit of latent to reference distances after one scale",
    inputs=("latents", "reference"),
    higher_is_better=False,
    best=0.0,
    replicates=_stress_replicates,
)
def pairdist_stress(latents: Vectors, reference: Vectors) -> float:
    """sqrt(min_s sum (d_R - s d_Z)^2 / sum d_R^2): Kruskal's stress with the best global scale.

    Equal to sqrt(1 - cos^2) of the two distance vectors; symmetric, in [0, 1], scale-invariant.
    Raises: as `pairdist_pearson`, except that equidistant points are fine.
    """
    z, r = _pair(latents, reference, "pairdist_stress")
    a, b = z.distances, r.distances
    a = a / a.max()
    b = b / b.max()
    scale = float((a * b).sum() / (a * a).sum())
    # The residual is summed as such: 1 - cos^2 would lose half the digits near 0.
    return float(((b - scale * a).square().sum() / b.square().sum()).sqrt())
