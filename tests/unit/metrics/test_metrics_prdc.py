"""Precision, recall, density, coverage against loops over points (which agree with the authors'
package ``prdc`` 0.2 to the last digit) and cases solved by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp, prdc
from latentsmith.metrics.prdc import (
    coverage,
    density,
    expected_coverage,
    manifolds,
    precision,
    recall,
    squared_radii,
)

NAMES = ("precision", "recall", "density", "coverage")


def draw(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(made: Tensor, real: Tensor, k: int) -> dict[str, float]:
    """The definitions, point by point."""
    g, r = made.numpy(), real.numpy()

    def radius(x: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1]

    rho, gamma = [radius(r, i) for i in range(len(r))], [radius(g, j) for j in range(len(g))]
    d = [[np.linalg.norm(a - b) for b in g] for a in r]
    real_holds = [[d[i][j] < rho[i] for j in range(len(g))] for i in range(len(r))]
    made_holds = [[d[i][j] < gamma[j] for j in range(len(g))] for i in range(len(r))]
    return {
        "precision": np.mean([any(row[j] for row in real_holds) for j in range(len(g))]),
        "recall": np.mean([any(row) for row in made_holds]),
        "density": sum(map(sum, real_holds)) / (k * len(g)),
        "coverage": np.mean([any(row) for row in real_holds]),
    }


@pytest.mark.parametrize(
    ("n", "m", "dim", "k", "scale"),
    [(30, 40, 4, 5, 0.8), (40, 25, 12, 3, 1.2), (33, 33, 2, 1, 1.0), (20, 20, 1, 4, 2.0)],
)
def test_equal_to_the_definitions(n, m, dim, k, scale):
    made, real = draw(n, dim, 0) * scale + 5, draw(m, dim, 1) + 5
    expected = by_loops(made, real, k)
    found = manifolds(made, real, k=k)
    for name in NAMES:
        assert float(getattr(found, name).mean()) == pytest.approx(expected[name], abs=1e-12)
        assert METRICS[name](made, real, k=k) == pytest.approx(expected[name], abs=1e-12)
    assert found.precision.shape == found.density.shape == (n,)
    assert found.recall.shape == found.coverage.shape == (m,)


def test_by_hand():
    """Real at 0, 1, 3 and k = 1: radii 1, 1, 2. Generated at 0.5 (in the first two balls), 4.5 (in
    the third) and 9 (in none); radii 4, 4, 4.5: 0.5's reaches all, 4.5's reaches 1 and 3."""
    real, made = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.5], [4.5], [9]])
    found = manifolds(made, real, k=1)
    assert found.precision.tolist() == [1, 1, 0]
    assert found.density.tolist() == [2, 1, 0]
    assert found.coverage.tolist() == [1, 1, 1]
    assert found.recall.tolist() == [1, 1, 1]
    apart = manifolds(made + 100, real, k=1)
    assert [float(getattr(apart, name).sum()) for name in NAMES] == [0, 0, 0, 0]


def test_few_rows_at_a_time_change_nothing(monkeypatch):
    made, real = draw(57, 5, 0), draw(43, 5, 1)
    whole = manifolds(made, real)
    monkeypatch.setattr(prdc, "_BLOCK_BYTES", 8 * 57 * 3)
    parts = manifolds(made, real)
    for name in NAMES:
        assert torch.equal(getattr(whole, name), getattr(parts, name))


def test_known_radii_are_used():
    made, real = draw(30, 3, 0), draw(30, 3, 1)
    radii = squared_radii(real, 5)
    expected = torch.cdist(real, real).sort(1).values[:, 5].square()
    torch.testing.assert_close(radii, expected)
    whole = manifolds(made, real)
    assert torch.equal(manifolds(made, real, radii=radii).density, whole.density)
    assert manifolds(made, real, radii=radii * 0).density.sum() == 0


def test_far_from_the_origin_digits_are_kept():
    made, real = draw(60, 8, 0), draw(60, 8, 1)
    near, far = manifolds(made, real), manifolds(made + 1e5, real + 1e5)
    for name in NAMES:
        expected = float(getattr(near, name).mean())
        assert float(getattr(far, name).mean()) == pytest.approx(expected, abs=0.02)


def test_copies_of_a_point_are_not_its_neighbours_for_free():
    """A point is not its own neighbour; a copy is one, and a ball without extent holds nothing."""
    real = draw(20, 3, 0)
    twice = torch.cat([real, real])
    assert torch.equal(squared_radii(twice, 1), torch.zeros(40, dtype=torch.float64))
    assert precision(real, twice, k=1) == 0
    assert precision(real, twice, k=2) == 1


def test_what_each_sees():
    """Mode dropping costs recall and coverage, junk costs precision and density."""
    real = torch.cat([draw(100, 6, 0), draw(100, 6, 1) + 8])
    dropped = draw(200, 6, 2)
    junk = torch.cat([dropped[:100], draw(100, 6, 3) * 9 - 40])
    assert coverage(dropped, real) < 0.55 and recall(dropped, real) < 0.55
    assert precision(dropped, real) > 0.85
    assert precision(junk, real) < 0.55 and density(junk, real) < 0.6


def test_what_one_distribution_gives_is_the_baseline():
    n, m, k = 80, 60, 4
    found = [
        {name: float(getattr(manifolds(draw(n, 5, s), draw(m, 5, 500 + s), k=k), name).mean())
         for name in ("density", "coverage")}
        for s in range(40)
    ]  # fmt: skip
    made, real = draw(n, 5, 0), draw(m, 5, 1)
    cover, _ = expected_coverage(made, real, k=k)
    assert np.mean([f["coverage"] for f in found]) == pytest.approx(cover, abs=0.01)
    assert np.mean([f["density"] for f in found]) == pytest.approx(1, abs=0.05)
    # of a real point's two others one is real: each is as likely the nearer
    assert expected_coverage(made[:1], real[:2], k=1)[0] == 0.5
    stamped = METRICS["coverage"].measure(made, real, stamp=Stamp("d", n), k=k, resamples=10)
    assert stamped.baseline == cover and stamped.stamp.detail["k"] == k


def test_refusals():
    made, real = draw(20, 3, 0), draw(20, 3, 1)
    with pytest.raises(UserError, match=r"features_ref with k = 5 needs at least 6"):
        precision(made, real[:5])
    with pytest.raises(UserError, match=r"manifold of features with k = 20 needs at least 21"):
        recall(made, draw(40, 3, 2), k=20)
    with pytest.raises(UserError, match="two feature spaces"):
        density(made, real[:, :2])
