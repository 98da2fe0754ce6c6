"""Stage C's targets: when is a regularized arm faster, and by how much."""

import math
from dataclasses import replace

import pytest
import torch

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.recipes.mmreg import report_generation
from latentsmith.recipes.mmreg.report_generation import (
    Scores,
    crossing,
    measurements,
    samples_to_baseline,
    section,
    targets,
)


def card(fd: float, arm: str = "a") -> LatentCard:
    found = LatentCard()
    stamp = Stamp("val", 512, "net", seed=0, detail={"arm": arm})
    found.measurements = [
        Measurement("fd_net", fd, stamp, None, False, metric="fd"),
        Measurement("kid_net", fd / 1e4, stamp, None, False, metric="kid"),
    ]
    found.figures["samples"] = torch.rand(16, 1, 8, 8)
    return found


def scores(*curves: dict[int, float]) -> Scores:
    return Scores([{n: card(fd) for n, fd in curve.items()} for curve in curves])


@pytest.mark.parametrize(
    ("bar", "samples"), [(101, 100), (100, 100), (80, 150), (60, 200), (55, 250), (50, 300)]
)
def test_crossing_is_linear_between_scores(bar, samples):
    assert crossing({100: 100.0, 200: 60.0, 300: 50.0}, bar) == pytest.approx(samples)


def test_a_bar_that_is_never_met_is_infinitely_far():
    assert crossing({100: 100.0, 200: 60.0}, 59.9) == math.inf
    assert crossing({100: 100.0}, 100.0) == 100


def test_a_curve_that_rises_again_counts_where_it_first_crossed():
    assert crossing({1: 10.0, 2: 4.0, 3: 8.0}, 7.0) == pytest.approx(1.5)
    assert crossing({1: 4.0, 2: 8.0}, 4.0) == 1


def test_part_of_the_baselines_samples():
    found = {
        "baseline": scores({100: 90.0, 200: 60.0}),
        "regularized": scores({100: 80.0, 200: 40.0}),
    }
    needed = samples_to_baseline(found, "fd_net")
    assert needed is not None and needed.value == pytest.approx(0.75)  # 60 is met at 150 of 200
    assert needed.interval is None, "one seed has no interval over seeds"


def test_seeds_give_both_targets_intervals():
    base = scores({100: 90.0, 200: 60.0}, {100: 92.0, 200: 62.0}, {100: 91.0, 200: 61.0})
    good = scores({100: 70.0, 200: 40.0}, {100: 72.0, 200: 42.1}, {100: 71.0, 200: 40.9})
    final, faster = targets({"baseline": base, "regularized": good})
    assert (final.verdict, faster.verdict) == ("go", "go")
    assert faster.measurement is not None and faster.measurement.interval is not None
    assert not final.required and not faster.required
    worse, slower = targets({"baseline": good, "regularized": base})
    assert (worse.verdict, slower.verdict) == ("no-go", "no-go")
    assert slower.measurement is not None and slower.measurement.value == math.inf


@pytest.mark.parametrize("spoilt", ["baseline", "regularized"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_generator_that_gave_nan_costs_its_verdicts_alone(spoilt, seeds):
    found = {arm: scores(*[{100: 90.0, 200: 60.0}] * seeds) for arm in ("baseline", "regularized")}
    found[spoilt].cards[-1][200].measurements.clear()
    assert {t.verdict for t in targets(found)} == {"not measured"}
    names = [m.name for m in measurements(found[spoilt])]
    assert names == ["generated_fd_at_100_net", "generated_kid_at_100_net"]
    assert section(found, 8) is not None
    for cards in found["baseline"].cards:
        cards[200].measurements.clear()
    assert len(targets(found)) == 2, "told, not left out"


def test_a_milestone_that_was_not_measured_is_gone_over():
    found = {
        "baseline": scores({100: 90.0, 200: 60.0}),
        "regularized": scores({100: 80.0, 150: 50.0, 200: 40.0}),
    }
    found["regularized"].cards[0][150].measurements.clear()
    needed = samples_to_baseline(found, "fd_net")
    assert needed is not None and needed.value == pytest.approx(0.75)


def test_a_fifth_fewer_samples_is_the_win():
    base = scores({100: 90.0, 200: 60.0})
    for at_150, verdict in ((66.0, "no-go"), (50.0, "go")):  # met at 170 and 133 of 200
        new = scores({100: 80.0, 150: at_150, 200: 51.0})
        faster = targets({"baseline": base, "regularized": new})[1]
        assert faster.measurement is not None and (faster.verdict, faster.bound) == (verdict, 0.8)


def test_with_one_seed_the_images_decide_paired():
    found = {"baseline": scores({100: 60.0}), "regularized": scores({100: 58.0})}
    noise = torch.linspace(-9, 9, 50)  # far wider than the difference, and common to both
    for arm, value in (("baseline", 60.0), ("regularized", 58.0)):
        of_arm = found[arm].cards[0][100]
        draws = value + noise + torch.linspace(-1, 1, 50).square()
        of_arm.measurements = [replace(m, draws=draws) for m in of_arm]
    final = targets(found)[0]
    assert final.verdict == "go" and not final.note
    worse = targets({"baseline": found["regularized"], "regularized": found["baseline"]})[0]
    assert worse.verdict == "no-go" and not worse.note


def test_before_stage_c_it_is_not_measured():
    (only,) = targets(None)
    assert only.verdict == "not measured" and "--until" in only.note
    assert section(None, 8) is None


def test_every_milestone_is_kept_under_a_name_of_its_own():
    names = [m.name for m in measurements(scores({100: 90.0, 200: 60.0}))]
    assert names == [
        "generated_fd_at_100_net", "generated_kid_at_100_net",
        "generated_fd_at_200_net", "generated_kid_at_200_net",
    ]  # fmt: skip


def test_the_section_shows_curves_numbers_and_both_arms_samples():
    found = {
        "baseline": scores({100: 90.0, 200: 60.0}),
        "regularized": scores({100: 80.0, 200: 40.0}),
    }
    shown = section(found, 8)
    assert shown is not None
    curves, table, grid = shown.items
    assert [row[:2] for row in table.rows] == [["fd_net", 100], ["fd_net", 200], ["kid_net", 200]]
    assert "baseline" in curves.alt and grid.data


def test_both_arms_stand_below_each_other_image_by_image(monkeypatch):
    rows = []
    monkeypatch.setattr(report_generation, "image_grid", lambda given, **_: rows.extend(given))
    found = {arm: scores({100: 60.0}) for arm in ("baseline", "regularized")}
    section(found, 8)
    assert [arm for arm, _ in rows] == ["baseline", "regularized"] * 2
    for arm, images in zip(("baseline", "regularized"), (rows[0::2], rows[1::2]), strict=True):
        made = found[arm].cards[0][100].figures["samples"]
        assert torch.equal(torch.cat([part for _, part in images]), made)
