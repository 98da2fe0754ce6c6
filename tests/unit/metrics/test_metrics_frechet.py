"""Fréchet distance, kernel distance and their statistics against SciPy, torchmetrics, analysis."""

import numpy as np
import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import frechet_distance, frechet_floor, frechet_from_stats
from latentsmith.metrics.kid import kid, kid_draws


def features(n: int, dim: int, seed: int, shift: float = 0.0, mix: bool = True) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=gen, dtype=torch.float64)
    if mix:
        x = x @ torch.randn(dim, dim, generator=gen, dtype=torch.float64) / dim**0.5
    return x + shift


def sqrtm_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    from scipy.linalg import sqrtm

    x, y = a.numpy(), b.numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(s @ t).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)


def test_frechet_matches_sqrtm():
    a, b = features(300, 40, 0), features(250, 40, 1, shift=0.3)
    assert frechet_distance(a, b) == pytest.approx(sqrtm_distance(a, b), rel=1e-6)


def test_frechet_matches_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    a, b = features(300, 24, 0), features(250, 24, 1, shift=0.3)
    expected = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_fewer_samples_than_dimensions_takes_the_nuclear_norm_and_agrees():
    a, b = features(40, 60, 0), features(45, 60, 1, shift=0.2)
    by_eigenvalues = frechet_from_stats(FeatureStats.of(a, "f"), FeatureStats.of(b, "f"))
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues, rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_analytic_gaussians():
    """Diagonal Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2, built to have these moments exactly."""
    x = features(500, 3, 0, mix=False)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov()).T)
    a = white * torch.tensor([1.0, 2.0, 3.0])
    b = white * torch.tensor([2.0, 2.0, 0.5]) + torch.tensor([1.0, 0.0, -1.0])
    assert frechet_distance(a, b) == pytest.approx(2 + 1 + 6.25, abs=1e-8)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-9)


def test_floor_predicts_the_distance_of_two_samples_of_one_distribution():
    pool = features(8000, 30, 0)
    direct = np.mean(
        [
            frechet_distance(
                features(1000, 30, s, mix=False), features(1000, 30, 99 + s, mix=False)
            )
            for s in range(1, 4)
        ]
    )
    floor, how = frechet_floor(features(4000, 30, 7, mix=False), 1000)
    assert floor == pytest.approx(direct, rel=0.15)
    assert how == {"floor_halves": 2000}
    assert frechet_floor(pool, 1000)[0] > frechet_floor(pool, 4000)[0]


def test_statistics_in_batches_merged_and_saved_equal_the_direct_ones(tmp_path):
    x = features(257, 12, 0, shift=1e4)  # a large mean: raw moments would lose the variance
    left, right = FeatureStats(12, "net@1"), FeatureStats(12, "net@1")
    for batch in x[:100].split(7):
        left.update(batch)
    for batch in x[100:].split(64):
        right.update(batch)
    left.merge(right).merge(FeatureStats(12, "net@1"))
    left.save(tmp_path / "stats.safetensors")
    loaded = FeatureStats.load(tmp_path / "stats.safetensors")
    assert (loaded.n, loaded.space) == (257, "net@1")
    assert torch.allclose(loaded.mean, x.mean(0), rtol=1e-12)
    assert torch.allclose(loaded.cov, x.T.cov(), rtol=1e-8)


def test_statistics_of_two_spaces_are_not_mixed(tmp_path):
    a, b = FeatureStats.of(features(9, 3, 0), "a"), FeatureStats.of(features(9, 3, 0), "b")
    for use in (lambda: a.merge(b), lambda: frechet_from_stats(a, b)):
        with pytest.raises(UserError, match=r"'a' .* 'b'"):
            use()
    with pytest.raises(UserError, match="no feature statistics at"):
        FeatureStats.load(tmp_path / "none.safetensors")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(UserError, match="holds no feature statistics"):
        FeatureStats.load(tmp_path / "junk")


def test_kid_matches_torchmetrics_on_the_full_set():
    from torchmetrics.image.kid import poly_mmd

    a, b = features(80, 10, 0), features(80, 10, 1, shift=0.3)
    expected = poly_mmd(a, b, degree=3, gamma=None, coef=1.0)
    assert kid(a, b) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("tile", [7, 30, 79])
def test_kid_in_tiles_is_kid_whole(tile, monkeypatch):
    a, b = features(80, 10, 0), features(61, 10, 1, shift=0.3)
    value, draws = kid_draws(a, b, replicates=20, seed=3)
    monkeypatch.setattr("latentsmith.metrics.kid._TILE", tile)
    again, tiled = kid_draws(a, b, replicates=20, seed=3)
    assert again == pytest.approx(value, rel=1e-10)
    torch.testing.assert_close(tiled, draws, rtol=1e-9, atol=1e-12)


def test_kid_is_unbiased_and_its_interval_holds_zero_for_one_distribution():
    values, hits = [], 0
    for s in range(30):
        a = features(60, 8, 2 * s, mix=False)
        b = features(60, 8, 2 * s + 1, mix=False)
        m = METRICS["kid"].measure(a, b, stamp=Stamp("t", 60), resamples=100)
        values.append(m.value)
        hits += m.interval[0] <= 0 <= m.interval[1]
    assert abs(np.mean(values)) < 3 * np.std(values) / 30**0.5
    assert hits >= 24


def test_edges():
    a = features(20, 5, 0)
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(a[:1], a)
    with pytest.raises(UserError, match="5 wide and features_ref 4"):
        frechet_distance(a, a[:, :4])
    with pytest.raises(UserError, match="two feature spaces"):
        kid(a, a[:, :4])
    with pytest.raises(UserError, match="features_ref hold NaN"):
        kid(a, a * torch.nan)
    with pytest.raises(UserError, match=r"must be \[B, 5\]"):
        FeatureStats(5, "f").update(a[:, :4])
