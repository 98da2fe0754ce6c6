"""Fréchet distance where it is hard: few samples, lost dimensions, spectra over twelve decades;
its floor at n and its interval over samples."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import (
    covariance_root,
    frechet_distance,
    frechet_from_stats,
    gaussian_floor,
    mean_and_root,
    reference_floor,
    trace_sqrt_product,
)
from latentsmith.metrics.frechet_interval import frechet_draws, frechet_influence


def draw(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectrum(decades: float, dim: int = 30) -> Tensor:
    return torch.logspace(0, -decades, dim, dtype=torch.float64)


def sqrtm_distance(a: Tensor, b: Tensor) -> float:
    """The usual code: SciPy's matrix square root, with its advice for singular products."""
    from scipy.linalg import sqrtm

    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # singular: what the cases are about
        root = sqrtm(s @ t).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root))


def exact(n: int, deviations: Tensor, rotation: Tensor, seed: int) -> Tensor:
    """n samples whose covariance is exactly rotation · deviations² · rotation' (n > D)."""
    x = draw(n, len(deviations), seed)
    q = torch.linalg.qr(x - x.mean(0))[0]
    return q * (n - 1) ** 0.5 * deviations @ rotation.T


CASES = {
    "n > D": (draw(90, 30, 0), draw(80, 30, 1) * 1.3 + 0.2),
    "n < D on one side": (draw(20, 30, 0), draw(80, 30, 1) * 1.3 + 0.2),
    "n < D on both": (draw(20, 30, 0), draw(25, 30, 1) * 1.3 + 0.2),
    "n = D": (draw(30, 30, 0), draw(30, 30, 1) * 1.3),
    "n = D + 1": (draw(31, 30, 0), draw(31, 30, 1) * 1.3),
    "rank 7 of 30": (draw(90, 7, 0) @ draw(7, 30, 2), draw(80, 30, 1)),
    "other rank 7": (draw(90, 7, 0) @ draw(7, 30, 2), draw(80, 7, 1) @ draw(7, 30, 3)),
    "a constant dimension": (
        draw(90, 30, 0) * torch.cat([torch.zeros(1), torch.ones(29)]),
        draw(80, 30, 1),
    ),
    "six decades": (draw(90, 30, 0) * spectrum(6), draw(80, 30, 1) * spectrum(6)),
    "far from zero": (draw(90, 30, 0) + 1e3, draw(80, 30, 1) * 1.3 + 1e3),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_scipy_to_1e_6(case):
    a, b = CASES[case]
    expected = sqrtm_distance(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_statistics_give_what_features_give(case):
    a, b = CASES[case]
    by_stats = frechet_from_stats(FeatureStats.of(a, "f"), FeatureStats.of(b, "f"))
    assert by_stats == pytest.approx(frechet_distance(a, b), rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_of_a_set_to_itself_is_nought(case):
    for x in CASES[case]:
        size = float((x - x.mean(0)).square().sum() / len(x))
        assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * size)


@pytest.mark.parametrize("decades", [0, 3, 6])
@pytest.mark.parametrize("turned", [False, True])
def test_closed_form_over_twelve_decades_of_variance(decades, turned):
    """Commuting covariances: sum (s - t)². With 10⁻¹² of the largest variance in the smallest,
    square roots of eigenvalues of the product would be wrong from the sixth digit on."""
    s, t = spectrum(decades), spectrum(decades).flip(0) if turned else 2 * spectrum(decades)
    rotation = torch.linalg.qr(draw(30, 30, 9))[0]
    a, b = exact(100, s, rotation, 0), exact(120, t, rotation, 1) + 0.5
    expected = float((s - t).square().sum()) + 30 * 0.25
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    by_stats = frechet_from_stats(FeatureStats.of(a, "f"), FeatureStats.of(b, "f"))
    assert by_stats == pytest.approx(expected, rel=1e-8)
    product = trace_sqrt_product(a.T.cov(), b.T.cov())
    assert product == pytest.approx(float((s * t).sum()), rel=1e-7, abs=1e-9)


def test_root_of_a_covariance():
    lost = draw(90, 7, 0) @ draw(7, 30, 2)
    for x in (lost, draw(90, 30, 0), draw(9, 30, 0)):
        root = covariance_root(x.T.cov(), len(x) - 1)
        torch.testing.assert_close(root @ root.T, x.T.cov(), rtol=1e-9, atol=1e-12)
        assert root.shape[1] <= min(len(x) - 1, 30)


def test_duplicated_samples_and_single_points():
    """No spread at all on one side: the distance is that of the means plus the other's spread."""
    a, b = draw(50, 6, 0), torch.ones(9, 6, dtype=torch.float64)
    expected = float((a.mean(0) - 1).square().sum() + a.T.cov().trace())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    by_stats = frechet_from_stats(FeatureStats.of(a, "f"), FeatureStats.of(b, "f"))
    assert by_stats == pytest.approx(expected, rel=1e-9)


def test_float32_features_lose_nothing_but_their_own_digits():
    a, b = CASES["n > D"]
    assert frechet_distance(a.float(), b.float()) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_published_moments():
    a, b = CASES["n > D"]
    made = FeatureStats.of_moments(b.mean(0), b.T.cov(), len(b), "f")
    assert frechet_from_stats(FeatureStats.of(a, "f"), made) == pytest.approx(
        frechet_distance(a, b), rel=1e-10
    )
    with pytest.raises(UserError, match="covariance"):
        FeatureStats.of_moments(b.mean(0), b, len(b), "f")
    with pytest.raises(UserError, match="at least 2"):
        FeatureStats.of_moments(b.mean(0), b.T.cov(), 1, "f")


# The floor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(200, 800), (60, 800), (400, 400)])
def test_floors_predict_what_the_same_distribution_gives(n, m):
    """Measured over fresh samples: n against m of one Gaussian."""
    spread = spectrum(1, 40)
    reference = draw(m, 40, 1000) * spread
    fresh = [
        frechet_distance(draw(n, 40, s) * spread, draw(m, 40, 50 + s) * spread) for s in range(12)
    ]
    measured, how = reference_floor(reference, n)
    assert measured == pytest.approx(np.mean(fresh), rel=0.2)  # one split of one reference
    assert how["floor"].startswith(f"{min(n, m // 2)} of the reference")
    drawn, _ = gaussian_floor(FeatureStats.of(reference, "f"), n)
    assert drawn == pytest.approx(np.mean(fresh), rel=0.2)


def test_gaussian_floor_is_that_of_gaussian_draws():
    reference = FeatureStats.of(draw(500, 12, 0) * spectrum(1, 12) + 3, "f")
    root = torch.linalg.cholesky(reference.cov)
    direct = np.mean(
        [
            frechet_from_stats(
                FeatureStats.of(draw(100, 12, s) @ root.T + reference.mean, "f"), reference
            )
            for s in range(30)
        ]
    )
    found = np.mean([gaussian_floor(reference, 100, seed=s)[0] for s in range(30)])
    assert found == pytest.approx(direct * (1 + 100 / 500), rel=0.1)


# The interval -------------------------------------------------------------------------------------


def weighted(x: Tensor, w: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """The Fréchet distance of samples with weights w [N], written down naively."""
    n, p = len(x), w / w.sum()
    own = p @ x
    spread = (x - own) * (p * n / (n - 1)).sqrt()[:, None]
    cross = torch.linalg.svdvals(spread @ root)[: min(n - 1, root.shape[1])].sum()
    return (own - mean).square().sum() + spread.square().sum() + root.square().sum() - 2 * cross


@pytest.mark.parametrize(("n", "dim"), [(50, 8), (10, 20), (21, 20)])
def test_influence_is_the_derivative_by_each_samples_weight(n, dim):
    x, (mean, root) = draw(n, dim, 0) * 1.2, mean_and_root(draw(100, dim, 1) + 0.3)
    w = torch.ones(n, dtype=torch.float64, requires_grad=True)
    value = weighted(x, w, mean, root)
    assert float(value.detach()) == pytest.approx(
        frechet_distance(x, draw(100, dim, 1) + 0.3), rel=1e-9
    )
    (expected,) = torch.autograd.grad(value, w)
    torch.testing.assert_close(frechet_influence(x, mean, root) / n, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("n", "dim", "least", "most"), [(120, 12, 0.8, 1.3), (24, 32, 0.9, 2.0)])
def test_interval_is_as_wide_as_new_samples_are_apart(n, dim, least, most):
    """The standard error against that over 60 new sample sets; too wide is the safe side."""
    spread = spectrum(1, dim)
    mean, root = torch.zeros(dim, dtype=torch.float64), torch.diag(spread)
    values, errors, hits = [], [], []
    for s in range(60):
        x = draw(n, dim, s) * spread * 1.1 + 0.1
        own, made = mean_and_root(x)
        cross = torch.linalg.svdvals(made.T @ root).sum()
        values.append(float(own.square().sum() + made.square().sum() + root.square().sum()
                            - 2 * cross))  # fmt: skip
        influence = frechet_influence(x, mean, root)
        errors.append(float(influence.std() / n**0.5))
        draws = frechet_draws(values[-1], influence, 100, s)
        hits.append(draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)))
    ratio = np.mean(errors) / np.std(values)
    assert least < ratio < most
    inside = np.mean([low <= np.mean(values) <= high for low, high in hits])
    assert inside >= 0.88


def test_influence_needs_a_few_samples():
    with pytest.raises(UserError, match="at least 3"):
        frechet_influence(draw(2, 4, 0), torch.zeros(4), torch.eye(4))
