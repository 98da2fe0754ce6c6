"""Intrinsic dimension against scikit-dimension, on known manifolds, with duplicates."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.dimension import id_mle, id_twonn


def manifold(n: int, dim: int, wide: int, seed: int = 0) -> torch.Tensor:
    """A ``dim``-dimensional Gaussian laid into ``wide`` dimensions by an isometry."""
    gen = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(wide, dim, generator=gen, dtype=torch.float64)).Q
    return torch.randn(n, dim, generator=gen, dtype=torch.float64) @ axes.T


@pytest.mark.parametrize(("n", "dim", "wide"), [(400, 5, 20), (300, 8, 64)])
def test_estimates_match_scikit_dimension(n, dim, wide):
    from skdim.id import MLE, TwoNN

    x = manifold(n, dim, wide)
    assert id_twonn(x) == pytest.approx(TwoNN().fit(x.numpy()).dimension_, rel=1e-8)
    assert id_twonn(x, discard=0.25) == pytest.approx(
        TwoNN(discard_fraction=0.25).fit(x.numpy()).dimension_, rel=1e-8
    )
    for k in (10, 20):
        expected = MLE().fit(x.numpy(), n_neighbors=k, comb="mle").dimension_
        assert id_mle(x, k=k) == pytest.approx(expected, rel=1e-8)


def test_low_dimensional_truth_is_found_and_covered():
    x = manifold(1500, 2, 30)
    for name in ("id_twonn", "id_mle"):
        m = METRICS[name].measure(x, stamp=Stamp("t", 1500))
        assert m.value == pytest.approx(2.0, abs=0.15)
        assert m.interval[0] < m.value < m.interval[1]
    assert id_twonn(1e-3 * x + 9) == pytest.approx(id_twonn(x), rel=1e-6)


def test_duplicates_count_once():
    x = manifold(300, 3, 10)
    doubled = torch.cat([x, x[:100], x[:50]])
    assert id_twonn(doubled) == pytest.approx(id_twonn(x), rel=1e-9)
    assert id_mle(doubled) == pytest.approx(id_mle(x), rel=1e-9)


def test_edges_say_how_many_are_needed():
    with pytest.raises(UserError, match="id_twonn needs at least 8"):
        id_twonn(torch.randn(7, 3))
    with pytest.raises(UserError, match="id_mle with k = 20 needs at least 21"):
        id_mle(torch.randn(15, 3))
    with pytest.raises(UserError, match=r"8 distinct latents, got 5 \(of 50"):
        id_twonn(torch.randn(5, 3).repeat(10, 1))
    with pytest.raises(UserError, match="distinct latents, got 1 "):
        id_mle(torch.ones(50, 4))
    with pytest.raises(UserError, match="equally far"):
        id_mle(torch.eye(40, dtype=torch.float64))
