"""The generation card: what it holds, what each number is compared with, what is refused; the
distance at infinitely many samples."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from latentsmith.encoders.inception import SHA256
from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.card import joint_difference
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import frechet_distance
from latentsmith.metrics.frechet_infinity import frechet_at_counts, frechet_infinity
from latentsmith.metrics.generation_card import GenerationCardConfig, measure_generation
from latentsmith.metrics.generation_reference import GenerationReference

STAMP = Stamp("toy/val", 0, sampler="euler", steps=20)
ALL = ("fd", "kid", "precision", "recall", "density", "coverage")


def draw(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def measure(made: Tensor, reference, **how):
    return measure_generation(
        made, reference, **({"space": "net", "stamp": STAMP, "resamples": 50} | how)
    )


REAL = draw(300, 8, 0)
MADE = draw(120, 8, 1) * 1.1 + 0.2


def test_numbers_are_those_of_the_metrics_with_interval_and_baseline():
    card = measure(MADE, REAL)
    assert [m.name for m in card] == [f"{name}_net" for name in ALL]
    assert card.not_measured == {}
    assert card.get("fd_net").value == pytest.approx(frechet_distance(MADE, REAL), rel=1e-9)
    for m in card:
        assert (m.stamp.count, m.stamp.space, m.stamp.steps) == (120, "net", 20)
        assert m.interval[0] <= m.value <= m.interval[1]
        assert m.baseline is not None and m.stamp.detail["baseline"]
        assert len(m.draws) == 50
        assert m.metric in METRICS.names()
    json.dumps(card.to_json(), allow_nan=False)
    assert card.get("fd_net").stamp.detail["reference_count"] == 300


def test_sample_against_sample_takes_equally_many():
    real = GenerationReference(REAL, "net").rows(120, seed=0)
    assert real.shape == (120, 8)
    card = measure(MADE, REAL)
    for name in ALL[1:]:
        m = card.get(f"{name}_net")
        assert m.value == pytest.approx(METRICS[name](MADE, real), rel=1e-9), name
        assert m.stamp.detail["reference_count"] == 120
    # more generated than real, and a limit for both
    more = measure(draw(400, 8, 5), REAL, cfg=GenerationCardConfig(points=90))
    assert more.get("fd_net").stamp.count == 400
    assert {m.stamp.count for m in more if m.metric != "fd"} == {90}


def test_settings_may_be_given_one_by_one():
    card = measure(MADE, REAL, k=3, seed=4, cfg=GenerationCardConfig(neighbours=7, resamples=9))
    assert card.get("recall_net").stamp.detail["k"] == 3
    assert card.get("fd_net").stamp.seed == 4
    assert len(card.get("kid_net").draws) == 50
    bare = measure(MADE, REAL, resamples=0)
    assert all(m.interval is None for m in bare)
    assert bare.get("kid_net").value == pytest.approx(card.get("kid_net").value, rel=0.5)


def test_statistics_give_the_distance_and_features_the_rest():
    stats = FeatureStats.of(REAL, "net@112:pooled#abc")
    alone, full = measure(MADE, stats), measure(MADE, stats, reference_features=REAL)
    whole = measure(MADE, REAL)
    assert [m.name for m in alone] == ["fd_net"]
    assert set(alone.not_measured) == {f"{name}_net" for name in ALL[1:]}
    assert "features, not only their statistics" in alone.not_measured["kid_net"]
    assert alone.get("fd_net").value == pytest.approx(whole.get("fd_net").value, rel=1e-9)
    assert [m.value for m in full] == pytest.approx([m.value for m in whole], rel=1e-9)
    assert "Gaussian" in alone.get("fd_net").stamp.detail["floor"]
    assert alone.get("fd_net").baseline == pytest.approx(whole.get("fd_net").baseline, rel=0.5)


def test_a_prepared_reference_gives_the_same_and_is_not_computed_again(monkeypatch):
    prepared = GenerationReference(REAL, "net")
    first, again = measure(MADE, prepared), measure(MADE, prepared)
    assert first.to_json() == again.to_json() == measure(MADE, REAL).to_json()
    from latentsmith.metrics import generation_reference as module

    for name in ("reference_floor", "squared_radii", "manifolds", "covariance_root"):
        monkeypatch.setattr(module, name, None)
    measure(draw(120, 8, 7), prepared)


def test_what_the_real_distribution_gives_lies_at_the_baseline():
    card = measure(draw(400, 6, 1), draw(1000, 6, 2))
    for name, tolerance in (("fd", 0.5), ("precision", 0.05), ("recall", 0.06),
                            ("density", 0.1), ("coverage", 0.05)):  # fmt: skip
        m = card.get(f"{name}_net")
        assert m.value == pytest.approx(m.baseline, rel=tolerance), name
    low, high = card.get("kid_net").interval
    assert low < 0 < high and card.get("kid_net").baseline == 0


def test_a_collapsed_generator_is_measured_and_bad():
    card = measure(torch.ones(100, 8), REAL)
    good = measure(draw(100, 8, 3), REAL)
    assert card.not_measured == {}
    assert card.get("fd_net").value > 10 * good.get("fd_net").value
    assert card.get("recall_net").value == 0 and card.get("coverage_net").value < 0.1


def test_what_cannot_be_measured_is_said():
    broken = MADE.clone()
    broken[7, 2] = torch.nan
    card = measure(broken, REAL)
    assert list(card) == [] and set(card.not_measured) == {f"{name}_net" for name in ALL}
    assert "generated features hold NaN" in card.not_measured["fd_net"]
    few = measure(MADE[:4], REAL)
    assert {m.metric for m in few} == {"fd", "kid"}
    assert "at least 6" in few.not_measured["coverage_net"]
    wide = measure(draw(50, 9, 0), REAL)
    assert list(wide) == [] and "8" in wide.not_measured["fd_net"]


def test_refusals():
    with pytest.raises(UserError, match="reference features hold NaN"):
        measure(MADE, REAL * torch.nan)
    with pytest.raises(UserError, match=r"'other@1'.*'net'"):
        measure(MADE, FeatureStats.of(REAL, "other@1"))
    with pytest.raises(UserError, match=r"'other'.*'net'"):
        measure(MADE, GenerationReference(REAL, "other"))


def test_called_fid_only_when_it_is():
    made, real = draw(50_000, 2, 0), draw(60, 2, 1)
    published = {"kind": "inception", "weights": SHA256, "resize": "tf_bilinear"}
    how = {"space": "inception", "cfg": GenerationCardConfig(points=50), "resamples": 5}
    assert measure(made, real, encoder=published, **how).get("fid").metric == "fd"
    assert measure(made, real, **how).get("fid") is None
    assert measure(made[:-1], real, encoder=published, **how).get("fd_inception")
    stamped = measure(made[:50], real, encoder=published, **how).get("kid_inception")
    assert stamped.stamp.detail["encoder"] == published


def test_two_generators_from_the_same_noise_are_told_apart_better_together():
    noise = draw(300, 8, 3)
    a, b = measure(noise * 1.1, REAL), measure(noise * 1.15, REAL)
    low, high = joint_difference(b, a, "fd_net")
    difference = b.get("fd_net").value - a.get("fd_net").value
    assert low < difference < high
    single = [m.interval[1] - m.interval[0] for m in (a.get("fd_net"), b.get("fd_net"))]
    assert high - low < 0.6 * max(single)


# Infinitely many ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(40, 6), (9, 20), (30, 20)])
def test_subsets_distances_are_those_of_the_subsets(n, dim):
    made, real = draw(n, dim, 0).double(), draw(60, dim, 1).double() * 1.2
    whole = frechet_at_counts(made, real, [n, n])
    assert whole.tolist() == pytest.approx([frechet_distance(made, real)] * 2, rel=1e-9)
    few = frechet_at_counts(made[:1].expand(n, dim), real, [n // 2])
    expected = (made[0] - real.mean(0)).square().sum() + real.T.cov().trace()
    assert few.item() == pytest.approx(float(expected), rel=1e-9)


def test_extrapolation_takes_the_bias_away():
    spread = torch.arange(1, 33).double() ** -0.5
    real = draw(20_000, 32, 99).double() * spread
    truth = float((0.1 * spread).square().sum()) + 32 * 0.01
    made = [draw(400, 32, s).double() * spread * 1.1 + 0.1 for s in range(6)]
    plain = np.mean([frechet_distance(x, real) for x in made])
    extrapolated = np.mean([frechet_infinity(x, real) for x in made])
    assert plain - truth > 0.1 * truth
    assert abs(extrapolated - truth) < 0.25 * (plain - truth)


def test_infinity_in_the_card():
    card = measure(MADE, REAL, cfg=GenerationCardConfig(infinity=True))
    found = card.get("fd_infinity_net")
    assert found.value < card.get("fd_net").value
    assert found.stamp.detail["points"] == 15 and found.stamp.detail["reference_count"] == 300
    alone = measure(MADE, FeatureStats.of(REAL, "net"), cfg=GenerationCardConfig(infinity=True))
    assert "features" in alone.not_measured["fd_infinity_net"]
    with pytest.raises(UserError, match="at least 20"):
        frechet_infinity(MADE[:19], REAL)
