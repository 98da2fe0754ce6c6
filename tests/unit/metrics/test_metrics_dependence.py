"""Unbiased CKA against its naive formula, distance correlation against ``dcor``."""

import numpy as np
import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.dependence import cka_linear, dcor_u


def clouds(n: int, seed: int = 0, noise: float = 1.0):
    gen = torch.Generator().manual_seed(seed)
    s = torch.randn(n, 3, generator=gen, dtype=torch.float64)
    z = s @ torch.randn(3, 10, generator=gen, dtype=torch.float64)
    z = z + noise * torch.randn(n, 10, generator=gen, dtype=torch.float64)
    return z, s @ torch.randn(3, 6, generator=gen, dtype=torch.float64) + 4


def naive_hsic(k: np.ndarray, el: np.ndarray) -> float:
    """Song et al. 2012, eq. 4, term by term."""
    n = len(k)
    k, el = k - np.diag(np.diag(k)), el - np.diag(np.diag(el))
    one = np.ones(n)
    return (
        np.trace(k @ el)
        + (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ el @ one)
    ) / (n * (n - 3))


def test_cka_is_the_naive_unbiased_hsic_ratio():
    z, r = clouds(50)
    k, el = (z @ z.T).numpy(), (r @ r.T).numpy()
    expected = naive_hsic(k, el) / (naive_hsic(k, k) * naive_hsic(el, el)) ** 0.5
    assert cka_linear(z, r) == pytest.approx(expected, abs=1e-9)


def test_dcor_matches_the_dcor_package():
    import dcor

    z, r = clouds(60)
    expected = dcor.u_distance_correlation_sqr(z.numpy(), r.numpy(), method="naive")
    assert dcor_u(z, r) == pytest.approx(float(expected), abs=1e-9)


def test_independent_wide_data_read_zero_where_the_biased_forms_do_not():
    import dcor

    gen = torch.Generator().manual_seed(0)
    z = torch.randn(64, 1024, generator=gen, dtype=torch.float64)
    r = torch.randn(64, 1024, generator=gen, dtype=torch.float64)
    assert abs(cka_linear(z, r)) < 0.1
    assert abs(dcor_u(z, r)) < 0.1
    assert dcor.distance_correlation(z.numpy(), r.numpy()) > 0.9


@pytest.mark.parametrize("metric", [cka_linear, dcor_u])
def test_rotation_scale_shift_do_not_matter(metric):
    z, r = clouds(50)
    turn = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64)).Q
    assert metric(1e3 * z @ turn - 5, r) == pytest.approx(metric(z, r), abs=1e-9)
    assert metric(z, z) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["cka_linear", "dcor_u"])
def test_subsampling_interval_covers_the_truth(name):
    """Nominal 95 %; 25 samples of 80 points, fewer than 20 hits has p < 1e-3."""
    gen = torch.Generator().manual_seed(2)
    a = torch.randn(3, 6, generator=gen, dtype=torch.float64)
    b = torch.randn(3, 5, generator=gen, dtype=torch.float64)

    def draw(n: int):
        s = torch.randn(n, 3, generator=gen, dtype=torch.float64)
        return s @ a + torch.randn(n, 6, generator=gen, dtype=torch.float64), s @ b

    truth = METRICS[name](*draw(3000))
    hits = 0
    for _ in range(25):
        m = METRICS[name].measure(*draw(80), stamp=Stamp("t", 80), resamples=40, baseline=0.0)
        hits += m.interval[0] <= truth <= m.interval[1]
    assert hits >= 20


def test_edges():
    z, r = clouds(12)
    with pytest.raises(UserError, match="at least 4"):
        cka_linear(z[:3], r[:3])
    with pytest.raises(UserError, match="collapsed"):
        dcor_u(torch.zeros(12, 3), r)
    with pytest.raises(UserError, match="no structure"):
        cka_linear(torch.eye(12), r)
    few = METRICS["dcor_u"].measure(z, r, stamp=Stamp("t", 12))
    assert few.interval is None  # too few points to subsample: no interval rather than a false one
