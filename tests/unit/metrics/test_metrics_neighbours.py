"""Neighbourhood metrics against scikit-learn and by hand."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.neighbours import (
    continuity,
    knn_accuracy,
    mutual_knn,
    trustworthiness,
    trustworthiness_per_sample,
)
from latentsmith.metrics.points import Points


def clouds(n: int = 120, seed: int = 0):
    gen = torch.Generator().manual_seed(seed)
    r = torch.randn(n, 8, generator=gen, dtype=torch.float64)
    return r[:, :3] + 0.3 * torch.randn(n, 3, generator=gen, dtype=torch.float64), r


@pytest.mark.parametrize("k", [1, 5, 20])
def test_trustworthiness_and_continuity_match_sklearn(k):
    from sklearn.manifold import trustworthiness as oracle

    z, r = clouds()
    expected = oracle(r.numpy(), z.numpy(), n_neighbors=k)
    assert trustworthiness(z, r, k=k) == pytest.approx(expected, abs=1e-12)
    assert continuity(z, r, k=k) == pytest.approx(
        oracle(z.numpy(), r.numpy(), n_neighbors=k), abs=1e-12
    )
    assert trustworthiness(z, r, k=k) != pytest.approx(continuity(z, r, k=k))


def test_trustworthiness_over_several_blocks_matches_sklearn():
    from sklearn.manifold import trustworthiness as oracle

    z, r = clouds(700)
    assert trustworthiness(z, r) == pytest.approx(
        oracle(r.numpy(), z.numpy(), n_neighbors=10), abs=1e-12
    )


def test_neighbours_match_sklearn_also_beyond_the_cached_width():
    from sklearn.neighbors import NearestNeighbors

    z, _ = clouds()
    points = Points(z)
    for k in (3, 50, 7):
        _, expected = NearestNeighbors(n_neighbors=k).fit(z.numpy()).kneighbors()
        assert points.neighbours(k).tolist() == expected.tolist()


def test_mutual_knn_by_hand():
    line = torch.tensor([0.0, 1.0, 2.1, 3.3, 4.6, 6.0])[:, None]
    other = torch.tensor([0.0, 1.0, 2.1, 50.0, 60.5, 72.0])[:, None]
    # Nearest on the line: 1 0 1 2 3 4; in the other: 1 0 1 4 3 4. Five of six agree.
    assert mutual_knn(line, other, k=1) == pytest.approx(5 / 6)
    assert mutual_knn(line, line * 3 - 7, k=3) == 1.0


def test_mutual_knn_chance_level():
    gen = torch.Generator().manual_seed(0)
    a = torch.randn(300, 4, generator=gen)
    b = torch.randn(300, 4, generator=gen)
    m = METRICS["mutual_knn"].measure(a, b, stamp=Stamp("t", 300))
    assert m.baseline == pytest.approx(10 / 299)
    assert m.interval[0] < m.baseline < m.interval[1]


def test_unrelated_spaces_have_trustworthiness_one_half():
    gen = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 6, generator=gen), torch.randn(400, 6, generator=gen)
    assert trustworthiness(a, b) == pytest.approx(0.5, abs=0.03)


def test_per_sample_values_average_to_the_metric():
    z, r = clouds()
    assert float(trustworthiness_per_sample(z, r).mean()) == pytest.approx(trustworthiness(z, r))


@pytest.mark.parametrize("k", [1, 4, 10])
def test_knn_accuracy_is_leave_one_out_sklearn(k):
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    z, r = clouds(80)
    labels = (r[:, 0] > 0).long() * 5 + (r[:, 1] > 0.5).long()
    scores = cross_val_score(
        KNeighborsClassifier(k, algorithm="brute"), z.numpy(), labels.numpy(), cv=LeaveOneOut()
    )
    assert knn_accuracy(z, labels, k=k) == pytest.approx(scores.mean(), abs=1e-12)


def test_edges():
    z, r = clouds(12)
    with pytest.raises(UserError, match=r"mutual_knn with k = 12 needs at least 14"):
        mutual_knn(z, r, k=12)
    with pytest.raises(UserError, match="more than 20 samples, got 12"):
        trustworthiness(z, r, k=10)
    with pytest.raises(UserError, match="single class"):
        knn_accuracy(z, torch.zeros(12, dtype=torch.long), k=2)
    with pytest.raises(UserError, match="integer tensor"):
        knn_accuracy(z, torch.zeros(12), k=2)
    with pytest.raises(UserError, match="3 labels for 12"):
        knn_accuracy(z, torch.tensor([0, 1, 0]), k=2)


def test_a_point_is_not_its_own_neighbour_even_when_duplicated():
    x = torch.randn(6, 3)
    points = Points(torch.cat([x, x, x]))
    near = points.neighbours(2)
    assert (near != torch.arange(18)[:, None]).all()
    assert float(points.nearest(2)[0].max()) == 0
