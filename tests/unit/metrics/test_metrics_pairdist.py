"""Pair geometry against SciPy; its invariances, chance level and the coverage of its interval."""

import numpy as np
import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.intervals import percentiles
from latentsmith.metrics.pairdist import (
    off_diagonal_correlation,
    pairdist_pearson,
    pairdist_spearman,
    pairdist_stress,
)
from latentsmith.metrics.points import Points, average_ranks
from latentsmith.metrics.triplets import triplet_order

STAMP = Stamp(data="test", count=0)


def related(n: int, seed: int = 0, noise: float = 0.5):
    """Two dependent clouds: latents [n, 3, 2, 2] and reference [n, 7]."""
    gen = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 4, generator=gen, dtype=torch.float64)
    z = shared @ torch.randn(4, 12, generator=gen, dtype=torch.float64)
    r = shared @ torch.randn(4, 7, generator=gen, dtype=torch.float64)
    z = z + noise * torch.randn(n, 12, generator=gen, dtype=torch.float64)
    return z.reshape(n, 3, 2, 2), r


def scipy_distances(x: torch.Tensor) -> np.ndarray:
    from scipy.spatial.distance import pdist

    return pdist(x.flatten(1).numpy())


def test_distances_match_pdist_over_several_blocks():
    from scipy.spatial.distance import squareform

    x = torch.randn(1500, 5, dtype=torch.float64) + 30
    expected = squareform(scipy_distances(x))
    assert np.allclose(Points(x).distances.numpy(), expected, rtol=1e-7, atol=1e-12)


def test_near_pairs_and_duplicates_keep_their_digits_far_from_the_origin():
    x = torch.randn(200, 8, dtype=torch.float64) * 1e3
    x[1] = x[0]
    x[3] = x[2] + 1e-9
    d = Points(x).distances
    assert d[0, 1] == 0
    expected = float((x[3] - x[2]).norm())
    assert float(d[2, 3]) == pytest.approx(expected, rel=1e-3)
    assert torch.equal(d, d.T)


def test_pearson_and_spearman_match_scipy():
    from scipy.stats import pearsonr, spearmanr

    z, r = related(150)
    a, b = scipy_distances(z), scipy_distances(r)
    assert pairdist_pearson(z, r) == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
    assert pairdist_spearman(z, r) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_with_ties_matches_scipy():
    from scipy.stats import spearmanr

    gen = torch.Generator().manual_seed(1)
    z = torch.randint(0, 3, (90, 4), generator=gen).double()  # lattice points: many equal distances
    labels = torch.randint(0, 4, (90,), generator=gen)
    different = (labels[:, None] != labels[None])[tuple(torch.triu_indices(90, 90, 1))]
    expected = spearmanr(scipy_distances(z).round(9), different.numpy()).statistic
    assert pairdist_spearman(z, Points.of_labels(labels)) == pytest.approx(expected, abs=1e-9)


def test_average_ranks_match_scipy():
    from scipy.stats import rankdata

    values = torch.randint(0, 20, (300,)).double()
    assert np.array_equal(average_ranks(values).numpy(), rankdata(values.numpy()))


def test_stress_matches_its_definition():
    from scipy.optimize import minimize_scalar

    z, r = related(60)
    a, b = scipy_distances(z), scipy_distances(r)
    best = minimize_scalar(lambda s: ((b - s * a) ** 2).sum()).fun
    assert pairdist_stress(z, r) == pytest.approx((best / (b**2).sum()) ** 0.5, rel=1e-6)
    assert pairdist_stress(z, 5 * z + 3) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "name", ["pairdist_pearson", "pairdist_spearman", "pairdist_stress", "triplet_order"]
)
def test_rotation_scale_shift_do_not_matter(name):
    z, r = related(80)
    flat = z.flatten(1)
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    moved = 1e-4 * flat @ turn + 7
    assert METRICS[name](moved, r) == pytest.approx(METRICS[name](z, r), abs=1e-6)


def test_independent_data_read_zero_because_the_diagonal_is_out():
    gen = torch.Generator().manual_seed(0)
    z, r = torch.randn(64, 256, generator=gen), torch.randn(64, 512, generator=gen)
    assert abs(pairdist_pearson(z, r)) < 0.15
    a, b = Points(z).distances, Points(r).distances
    with_diagonal = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
    assert with_diagonal > 0.9  # what a careless metric would report


def test_known_value_for_labels():
    # Three points of class 0 at 0 … and one of class 1 far away: distances 0/1 pattern is exact.
    z = torch.tensor([[0.0], [0.0], [0.0], [5.0]])
    assert pairdist_pearson(z, Points.of_labels(torch.tensor([3, 3, 3, 8]))) == pytest.approx(1.0)


def test_bootstrap_replicates_equal_direct_weighted_correlation():
    from latentsmith.metrics.intervals import bootstrap_weights
    from latentsmith.metrics.pairdist import _correlation_replicates

    z, r = related(40)
    a, b = Points(z).distances, Points(r).distances
    got = _correlation_replicates(a, b, replicates=5, seed=3)
    weights = bootstrap_weights(40, 5, 3)
    i, j = torch.triu_indices(40, 40, 1)
    for k in range(5):
        # Written out: every drawn pair of *different* originals, as often as it was drawn.
        w = weights[i, k] * weights[j, k]
        cov = np.cov(a[i, j].numpy(), b[i, j].numpy(), aweights=w.numpy())
        expected = cov[0, 1] / (cov[0, 0] * cov[1, 1]) ** 0.5
        assert float(got[k]) == pytest.approx(expected, abs=1e-5)


def test_interval_covers_the_truth():
    """Nominal 95 % of 60 small samples; fewer than 50 hits has p < 1e-3."""
    truth = pairdist_pearson(*related(3000, seed=999, noise=1.0)[:2])
    gen = torch.Generator().manual_seed(5)
    mix_z = torch.Generator().manual_seed(999)
    torch.randn(3000, 4, generator=mix_z, dtype=torch.float64)
    a = torch.randn(4, 12, generator=mix_z, dtype=torch.float64)
    b = torch.randn(4, 7, generator=mix_z, dtype=torch.float64)
    hits, widths = 0, []
    for _ in range(60):
        s = torch.randn(100, 4, generator=gen, dtype=torch.float64)
        z = s @ a + torch.randn(100, 12, generator=gen, dtype=torch.float64)
        found = METRICS["pairdist_pearson"].measure(
            z, s @ b, stamp=STAMP, resamples=100, baseline=0.0
        )
        low, high = found.interval
        hits += low <= truth <= high
        widths.append(high - low)
    assert hits >= 50
    assert np.mean(widths) < 0.25


def test_measurement_carries_interval_baseline_and_protocol():
    z, r = related(120)
    m = METRICS["pairdist_pearson"].measure(
        z, r, stamp=Stamp(data="d/val", count=120), suffix="ref"
    )
    assert m.name == "pairdist_pearson_ref"
    assert m.metric == "pairdist_pearson"
    assert m.interval[0] < m.value < m.interval[1]
    assert abs(m.baseline) < 0.1 < m.value
    assert m.stamp.detail["permutations"] == 8
    assert m.stamp.detail["resamples"] == 200
    assert m.stamp.data == "d/val"


def test_edges_name_what_is_wrong():
    z, r = related(20)
    with pytest.raises(UserError, match="at least 4"):
        pairdist_pearson(z[:3], r[:3])
    with pytest.raises(UserError, match="same samples"):
        pairdist_pearson(z, r[:-1])
    with pytest.raises(UserError, match=r"latents are the same point \(collapsed\)"):
        pairdist_pearson(torch.ones(20, 5), r)
    broken = z.clone()
    broken[4, 1, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"latents hold NaN.*sample 4"):
        pairdist_pearson(broken, r)
    with pytest.raises(UserError, match="reference are equal"):
        pairdist_pearson(z, torch.eye(20))  # all reference points equally far apart


def test_duplicated_samples_stay_finite():
    z, r = related(30)
    z, r = torch.cat([z, z[:10]]), torch.cat([r, r[:10]])
    m = METRICS["pairdist_spearman"].measure(z, r, stamp=STAMP, resamples=20)
    assert all(map(np.isfinite, (m.value, *m.interval, m.baseline)))


def test_triplet_order_counts_agreements():
    z = torch.arange(6.0)[:, None] ** 1.5
    assert triplet_order(z, z) == 1.0
    gen = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 5, generator=gen), torch.randn(400, 5, generator=gen)
    assert triplet_order(a, b) == pytest.approx(0.5, abs=0.03)


def test_percentiles_are_the_central_95():
    assert percentiles(torch.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_off_diagonal_correlation_ignores_the_diagonal():
    z, r = related(25)
    a, b = Points(z).distances.clone(), Points(r).distances.clone()
    assert off_diagonal_correlation(a, a) == pytest.approx(1.0)
    i, j = torch.triu_indices(25, 25, 1)
    expected = np.corrcoef(a[i, j].numpy(), b[i, j].numpy())[0, 1]
    assert off_diagonal_correlation(a, b) == pytest.approx(expected, abs=1e-12)
