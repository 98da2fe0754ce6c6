"""Verdicts: what counts as met, with and without intervals, and every way to be missing."""

import math

import pytest

from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.content import Target, overall
from latentsmith.reports.verdicts import (
    above,
    above_baseline,
    below,
    counts_text,
    difference_interval,
    within_percent,
)

from helpers import reports  # isort: skip

STAMP = Stamp("data/val", 100)


def m(value, interval=None, up=True, unit=""):
    return Measurement("psnr", value, STAMP, interval, up, unit)


@pytest.mark.parametrize(
    ("value", "interval", "verdict"),
    [
        (0.85, None, "go"),
        (0.8, None, "no-go"),  # the bar itself is not above the bar
        (0.75, None, "no-go"),
        (0.85, (0.81, 0.89), "go"),
        (0.85, (0.79, 0.91), "no-go"),
        (0.85, (0.80, 0.91), "no-go"),
        (0.75, (0.70, 0.82), "no-go"),
        (math.inf, None, "go"),
        (math.nan, None, "no-go"),
        (math.nan, (0.9, 0.95), "no-go"),
    ],
)
def test_above(value, interval, verdict):
    assert above(m(value, interval), 0.8, name="t").verdict == verdict


@pytest.mark.parametrize(
    ("value", "interval", "verdict"),
    [(0.1, (0.05, 0.15), "go"), (0.1, (0.05, 0.25), "no-go"), (0.3, None, "no-go")],
)
def test_below(value, interval, verdict):
    assert below(m(value, interval), 0.2, name="t").verdict == verdict


def test_notes_say_why():
    assert "interval does not" in above(m(0.85, (0.7, 0.9)), 0.8, name="t").note
    assert "reaches it" in above(m(0.75, (0.7, 0.9)), 0.8, name="t").note
    assert "value alone" in above(m(0.85), 0.8, name="t").note
    assert "NaN" in above(m(math.nan), 0.8, name="t").note
    assert above(m(0.85, (0.82, 0.9)), 0.8, name="t").note == ""
    nan_end = above(m(0.85, (math.nan, 0.9)), 0.8, name="t")
    assert (nan_end.verdict, "not finite" in nan_end.note) == ("go", True)


def test_by_value_ignores_the_interval():
    assert above(m(0.85, (0.7, 0.9)), 0.8, name="t", by="value").verdict == "go"
    assert above(m(0.75, (0.7, 0.9)), 0.8, name="t", by="value").verdict == "no-go"


def test_missing_is_not_measured():
    assert above(None, 0.8, name="t").verdict == "not measured"
    assert above(None, 0.8, name="t").threshold == "> 0.8"
    assert above_baseline(None, m(1.0), name="t").verdict == "not measured"
    without = within_percent(m(1.0), None, 2, name="t")
    assert (without.verdict, without.note) == ("not measured", "the baseline was not measured")


def test_nan_baseline_is_no_go():
    target = within_percent(m(1.0), m(math.nan), 2, name="t")
    assert (target.verdict, "baseline" in target.note) == ("no-go", True)


@pytest.mark.parametrize(
    ("value", "up", "verdict"),
    [
        (24.6, True, "go"),
        (24.5, True, "go"),  # exactly 2 % less
        (24.4, True, "no-go"),
        (30.0, True, "go"),  # better is welcome
        (25.4, False, "go"),
        (25.6, False, "no-go"),
        (20.0, False, "go"),
        (25.4, None, "go"),
        (25.6, None, "no-go"),
        (24.4, None, "no-go"),
    ],
)
def test_within_percent(value, up, verdict):
    assert within_percent(m(value, up=up), m(25.0, up=up), 2, name="t").verdict == verdict


def test_within_percent_of_a_negative_baseline_is_of_its_size():
    assert within_percent(m(-10.1), m(-10.0), 2, name="t").verdict == "go"
    assert within_percent(m(-10.3), m(-10.0), 2, name="t").verdict == "no-go"


def test_within_percent_by_interval_of_the_difference():
    base = m(25.0, (24.9, 25.1))
    assert within_percent(m(24.8, (24.7, 24.9)), base, 2, name="t").verdict == "go"
    near = within_percent(m(24.6, (24.5, 24.7)), base, 2, name="t")
    assert near.verdict == "no-go"  # value inside, difference -0.4 ± 0.14 reaches -0.5
    paired = within_percent(m(24.6, (24.5, 24.7)), base, 2, name="t", difference=(-0.42, -0.38))
    assert paired.verdict == "go"  # the same images: their noise cancels
    both_ways = within_percent(m(25.4, up=None), m(25.0, up=None), 2, name="t",
                               difference=(0.3, 0.6))  # fmt: skip
    assert both_ways.verdict == "no-go"


def test_above_baseline_follows_the_direction():
    assert above_baseline(m(2.0), m(1.0), name="t").verdict == "go"
    assert above_baseline(m(1.0), m(1.0), name="t").verdict == "no-go"
    assert above_baseline(m(2.0, up=False), m(1.0, up=False), name="t").verdict == "no-go"
    assert above_baseline(m(0.5, up=False), m(1.0, up=False), name="t").verdict == "go"
    with pytest.raises(ValueError, match="no better direction"):
        above_baseline(m(1.0, up=None), m(2.0, up=None), name="t")


def test_above_baseline_needs_the_difference_clear_of_zero():
    base = m(84.3, (83.5, 85.0))
    assert above_baseline(m(86.2, (85.4, 86.9)), base, name="t").verdict == "go"
    assert above_baseline(m(85.0, (84.2, 85.7)), base, name="t").verdict == "no-go"
    assert above_baseline(m(85.0, (84.2, 85.7)), base, name="t",
                          difference=(0.2, 1.2)).verdict == "go"  # fmt: skip


def test_difference_interval_is_mover():
    # Symmetric half-widths 3 and 4 combine to 5.
    low, high = difference_interval(m(10.0, (7.0, 13.0)), m(2.0, (-2.0, 6.0))) or (0, 0)
    assert (low, high) == (3.0, 13.0)
    # Asymmetric: the lower end takes the first's lower and the second's upper half-width.
    low, high = difference_interval(m(10.0, (7.0, 10.0)), m(2.0, (2.0, 6.0))) or (0, 0)
    assert (low, high) == (3.0, 8.0)
    assert difference_interval(m(1.0), m(2.0, (1.0, 3.0))) is None
    assert difference_interval(m(1.0, (0.0, math.inf)), m(2.0, (1.0, 3.0))) is None


def test_thresholds_read_well():
    assert above(m(0.9), 0.8, name="t").threshold == "> 0.8"
    base = m(24.93, unit="dB")
    assert within_percent(m(24.8, unit="dB"), base, 2, name="t").threshold == (
        "≥ 24.43 dB (baseline − 2 %)"
    )
    lower = within_percent(m(1.0, up=False), m(1.0, up=False), 2, name="t")
    assert lower.threshold == "≤ 1.020 (baseline + 2 %)"
    assert above_baseline(m(2.0), m(1.0), name="t").threshold == "> 1.000 (baseline)"


def target(verdict, required=True):
    return Target("t", "", None, "", verdict, required=required)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["go", "go"], "go"),
        (["go", "no-go"], "no-go"),
        (["not measured", "no-go"], "no-go"),
        (["go", "not measured"], "not measured"),
        ([], None),
    ],
)
def test_overall(verdicts, expected):
    assert overall([target(v) for v in verdicts]) == expected


def test_optional_targets_do_not_decide():
    assert overall([target("go"), target("no-go", required=False)]) == "go"
    assert overall([target("go", required=False)]) is None


def test_counts():
    report = reports.report(figures=False)
    assert counts_text(report) == "4 of 4 required targets met"
