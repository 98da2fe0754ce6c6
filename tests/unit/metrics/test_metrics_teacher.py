"""Features beside a teacher's: values against plain loops, chance, intervals, refusals."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.teacher import similarity_mae, token_cosine


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_token_cosine():
    a, b = draw(300, 4, 5), draw(300, 4, 5, seed=1)
    assert token_cosine(a, b) == pytest.approx(float(F.cosine_similarity(a, b, dim=2).mean()))
    assert token_cosine(a, 2 * a) == pytest.approx(1.0)
    assert token_cosine(a.half(), a) == pytest.approx(1.0, abs=1e-5)


def test_token_cosine_s_chance_is_the_shared_direction():
    """Tokens around one mean direction are near each other's whatever the image."""
    a = draw(200, 3, 8) + 2
    m = METRICS["token_cosine"].measure(a, a, stamp=Stamp("d", 200))
    assert m.value == pytest.approx(1.0)
    centre = F.normalize(a, dim=2).mean((0, 1))
    assert m.baseline == pytest.approx(float(centre @ centre), abs=0.01)
    assert m.baseline > 0.7


def test_similarity_mae():
    a, b = draw(12, 4, 5), draw(12, 3, 7, seed=1)
    z, r = (F.normalize(x, dim=2).mean(1) for x in (a, b))
    pairs = [
        abs(F.cosine_similarity(z[i], z[j], dim=0) - F.cosine_similarity(r[i], r[j], dim=0))
        for i, j in itertools.combinations(range(12), 2)
    ]
    assert similarity_mae(a, b) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-12)
    turn = torch.linalg.qr(draw(5, 5, seed=2))[0]
    assert similarity_mae(a, 3 * a @ turn) < 1e-12


def test_similarity_mae_s_interval_covers_and_chance_is_worse():
    r = draw(400, 2, 6, seed=3)
    z = r + 0.5 * draw(400, 2, 6, seed=4)
    m = METRICS["similarity_mae"].measure(z, r, stamp=Stamp("d", 400))
    low, high = m.interval
    assert low < m.value < high and high - low < 0.2 * m.value
    assert m.baseline > 1.5 * m.value
    many = [similarity_mae(z[i], r[i]) for i in torch.randperm(400).split(100)]
    assert m.value == pytest.approx(sum(many) / 4, rel=0.1)


def test_nearest_neighbours_in_common_are_cosine_neighbours():
    """What the source calls nearest neighbour recall."""
    z, r = F.normalize(draw(60, 4), dim=1), F.normalize(draw(60, 4) + 0.3 * draw(60, 4, seed=2))
    near = [(x @ x.T).fill_diagonal_(-2).argmax(1) for x in (z, F.normalize(r, dim=1))]
    want = float((near[0] == near[1]).double().mean())
    assert METRICS["mutual_knn"](z, F.normalize(r, dim=1), k=1) == pytest.approx(want)


def test_refusals():
    with pytest.raises(UserError, match=r"tokens \[3, 4, 5\] against a teacher's \[3, 4, 6\]"):
        token_cosine(draw(3, 4, 5), draw(3, 4, 6))
    with pytest.raises(UserError, match=r"tokens_ref"):
        token_cosine(draw(3, 4, 5), torch.full((3, 4, 5), torch.nan))
    with pytest.raises(UserError, match="of the same images"):
        similarity_mae(draw(3, 4, 5), draw(4, 4, 5))
