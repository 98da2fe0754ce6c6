"""Means, intervals and paired differences over seeds."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.seeds import across_seeds, paired_difference, student_interval

VALUES = [3.1, 2.4, 2.9, 3.3]


def measured(*values: float) -> list[Measurement]:
    stamps = [Stamp("data/val", 100, seed=n, detail={"k": 5}) for n in range(len(values))]
    return [
        Measurement("fd_x", v, s, (v - 1, v + 1), False)
        for v, s in zip(values, stamps, strict=True)
    ]


def test_the_interval_is_students():
    expected = stats.t.interval(0.95, 3, loc=sum(VALUES) / 4, scale=stats.sem(VALUES))
    assert student_interval(VALUES) == pytest.approx(expected, rel=1e-12)
    assert student_interval(VALUES[:1]) is None
    assert student_interval([1.0, math.inf]) is None


def test_over_seeds_the_interval_is_of_the_mean_and_the_stamp_says_so():
    found = across_seeds(measured(*VALUES))
    assert found.value == pytest.approx(sum(VALUES) / 4)
    assert found.interval == pytest.approx(student_interval(VALUES))
    assert found.stamp.seed is None
    drawn = [replace(m, draws=torch.zeros(3)) for m in measured(*VALUES)]
    assert across_seeds(drawn).draws is None, "they are of one model"
    assert found.stamp.detail == {"k": 5, "seeds": 4, "interval": "Student's t over seeds"}


def test_one_seed_keeps_its_own_interval():
    only = measured(3.0)[0]
    assert across_seeds([only]) is only


def test_a_seed_that_never_got_there_leaves_no_interval():
    found = across_seeds(measured(0.7, math.inf))
    assert found.value == math.inf and found.interval is None
    for values in ([1.0, math.nan], [math.inf, -math.inf]):
        assert math.isnan(across_seeds(measured(*values)).value), "never a better value than known"


def test_what_chance_gives_is_a_mean_too():
    found = [replace(m, baseline=b) for m, b in zip(measured(1, 2), (0.1, 0.3), strict=True)]
    assert across_seeds(found).baseline == pytest.approx(0.2)
    assert across_seeds([found[0], replace(found[1], baseline=None)]).baseline is None


def test_paired_differences_cancel_what_the_seed_does():
    new, old = measured(10.1, 20.0, 30.2), measured(11.0, 21.1, 31.1)
    expected = stats.t.interval(0.95, 2, loc=-2.9 / 3, scale=stats.sem([-0.9, -1.1, -0.9]))
    assert paired_difference(new, old) == pytest.approx(expected)
    assert paired_difference(new[:1], old[:1]) is None
    with pytest.raises(ValueError, match="zip"):
        paired_difference(new, old[:2])
