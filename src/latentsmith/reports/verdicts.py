"""Verdicts from comparisons: a target is met when the *data* say so, not only the point value.

Where intervals exist, the end of the 95 % interval that is nearest to failing must clear the bar:

* `above` / `below` a number: the whole interval lies beyond it.
* `above_baseline`, `within_percent` of a baseline: the interval of the *difference* decides.
  Pass ``difference`` when the two were measured on the same samples and bootstrapped together
  (sharper). Otherwise it is made from the two intervals by the method of variance estimates
  recovery (MOVER; Zou & Donner, Statistics in Medicine 27, 2008, eq. 4), which takes the two as
  independent and so is conservative for measurements that share their samples.

``by="value"`` compares point values alone. Without any interval the value decides, and the note
says so. A value that is NaN is a no-go; one that was never measured is "not measured".
"""

import math
from typing import Literal

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Report, Rule, Target, Verdict
from latentsmith.reports.numbers import number_text

By = Literal["interval", "value"]
Interval = tuple[float, float]


def above(
    m: Measurement | None,
    bound: float,
    *,
    name: str,
    meaning: str = "",
    required: bool = True,
    by: By = "interval",
    baseline: Measurement | None = None,
) -> Target:
    """Go when ``m`` (its whole interval) is greater than ``bound``. ``baseline`` is only shown."""
    return _against_number(m, bound, "above", name, meaning, required, by, baseline)


def below(
    m: Measurement | None,
    bound: float,
    *,
    name: str,
    meaning: str = "",
    required: bool = True,
    by: By = "interval",
    baseline: Measurement | None = None,
) -> Target:
    """Go when ``m`` (its whole interval) is less than ``bound``. ``baseline`` is only shown."""
    return _against_number(m, bound, "below", name, meaning, required, by, baseline)


def above_baseline(
    m: Measurement | None,
    baseline: Measurement | None,
    *,
    name: str,
    meaning: str = "",
    required: bool = True,
    by: By = "interval",
    difference: Interval | None = None,
) -> Target:
    """Go when ``m`` is better than ``baseline``: above it, or below where lower is better.

    Args:
        difference: 95 % interval of ``m - baseline`` from a joint bootstrap, when there is one.
    """
    return _against_baseline(m, baseline, 0.0, "beats", name, meaning, required, by, difference)


def within_percent(
    m: Measurement | None,
    baseline: Measurement | None,
    percent: float,
    *,
    name: str,
    meaning: str = "",
    required: bool = True,
    by: By = "interval",
    difference: Interval | None = None,
) -> Target:
    """Go when ``m`` is at most ``percent`` per cent of ``|baseline|`` worse; better is welcome.

    Where neither direction is better, a change of more than ``percent`` either way is a no-go.
    """
    return _against_baseline(
        m, baseline, percent, "within", name, meaning, required, by, difference
    )


def difference_interval(m: Measurement, baseline: Measurement) -> Interval | None:
    """MOVER interval of ``m.value - baseline.value``; None unless both have finite intervals."""
    a, b = _finite(m.interval), _finite(baseline.interval)
    if a is None or b is None:
        return None
    d = m.value - baseline.value
    low = d - math.hypot(m.value - a[0], b[1] - baseline.value)
    high = d + math.hypot(a[1] - m.value, baseline.value - b[0])
    return low, high


def _against_number(
    m: Measurement | None,
    bound: float,
    rule: Literal["above", "below"],
    name: str,
    meaning: str,
    required: bool,
    by: By,
    baseline: Measurement | None,
) -> Target:
    sign = 1.0 if rule == "above" else -1.0
    unit = f" {m.unit}" if m and m.unit else ""
    threshold = f"{'>' if rule == 'above' else '<'} {bound:g}{unit}"
    if m is None:
        verdict, note = "not measured", ""
    else:
        interval = _finite(m.interval)
        ends = None if interval is None else tuple(sorted(sign * (e - bound) for e in interval))
        verdict, note = _decide(sign * (m.value - bound), ends, by, m.interval)
    return Target(name, meaning, m, threshold, verdict, note, required, rule, bound, baseline)


def _against_baseline(
    m: Measurement | None,
    baseline: Measurement | None,
    percent: float,
    rule: Rule,
    name: str,
    meaning: str,
    required: bool,
    by: By,
    difference: Interval | None,
) -> Target:
    def target(threshold: str, verdict: Verdict, note: str, bound: float | None = None) -> Target:
        return Target(
            name, meaning, m, threshold, verdict, note, required, rule, bound, reference=baseline
        )

    plain = "better than baseline" if rule == "beats" else f"within {percent:g} % of baseline"
    if m is None or baseline is None:
        missing = "the baseline was not measured" if m is not None else ""
        return target(plain, "not measured", missing)
    if math.isnan(baseline.value):
        return target(plain, "no-go", "the baseline's value is NaN")
    up = m.higher_is_better
    if rule == "beats" and up is None:
        raise ValueError(f"{m.name} has no better direction, so it cannot beat a baseline")
    slack = abs(baseline.value) * percent / 100
    interval = _finite(difference) or difference_interval(m, baseline)
    d = m.value - baseline.value
    if up is None:  # two-sided: how far inside the band [-slack, slack] the difference lies
        threshold = f"{number_text(baseline.value, m.unit)} ± {percent:g} %"
        margin = slack - abs(d)
        ends = None
        if interval is not None:
            near = 0.0 if interval[0] <= 0 <= interval[1] else min(map(abs, interval))
            ends = (slack - max(map(abs, interval)), slack - near)
        return target(threshold, *_decide(margin, ends, by, difference))
    sign = 1.0 if up else -1.0
    bound = baseline.value - sign * slack
    ends = None if interval is None else tuple(sorted(sign * e + slack for e in interval))
    relation = (">" if up else "<") if rule == "beats" else ("≥" if up else "≤")
    suffix = "baseline" if rule == "beats" else f"baseline {'−' if up else '+'} {percent:g} %"
    strict = rule == "beats"
    verdict, note = _decide(sign * d + slack, ends, by, difference, strict=strict)
    return target(f"{relation} {number_text(bound, m.unit)} ({suffix})", verdict, note, bound)


def _decide(
    margin: float,
    ends: tuple[float, ...] | None,
    by: By,
    given: Interval | None,
    *,
    strict: bool = True,
) -> tuple[Verdict, str]:
    """Verdict and note from the margin to the bar (positive = cleared) and its interval's ends."""

    def cleared(x: float) -> bool:
        return x > 0 if strict else x >= 0

    if math.isnan(margin):
        return "no-go", "the value is NaN"
    verdict: Verdict = "go" if cleared(margin) else "no-go"
    if given is not None and _finite(given) is None:
        return verdict, "the interval is not finite; the value alone decides"
    if ends is None:
        return verdict, "no interval; the value alone decides"
    if by == "interval" and verdict == "go" and not cleared(ends[0]):
        return "no-go", "the value clears the bar, but its 95 % interval does not"
    if by == "interval" and verdict == "no-go" and cleared(ends[1]):
        return "no-go", "the value misses the bar; its 95 % interval reaches it"
    return verdict, ""


def _finite(interval: Interval | None) -> Interval | None:
    if interval is None or not all(map(math.isfinite, interval)):
        return None
    return interval


RULES = (
    "A target is met when the end of the 95 % interval nearest to failing clears the bar; "
    "against a baseline, the interval of the difference decides (from a joint bootstrap where "
    "given, else combined from the two intervals by MOVER, which treats them as independent "
    "and errs on the strict side). Without an interval the value decides. "
    "The page is a go only if every required target is."
)
"""How verdicts are made, for the foot of a verdict table."""


def counts_text(report: Report) -> str:
    """``3 of 5 required targets met, 1 not measured``."""
    required = [t for t in report.targets if t.required]
    met = sum(t.verdict == "go" for t in required)
    missing = sum(t.verdict == "not measured" for t in required)
    text = f"{met} of {len(required)} required targets met"
    return f"{text}, {missing} not measured" if missing else text
