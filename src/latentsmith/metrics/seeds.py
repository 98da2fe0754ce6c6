"""The same measurement under several seeds: mean, interval, paired difference.

A model's score moves with the seed it was trained from, and no resampling of its samples shows
that. Only training again does.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from latentsmith.metrics.base import Measurement


def across_seeds(found: Sequence[Measurement]) -> Measurement:
    """Mean over seeds with Student's 95 % interval; a single measurement as it is.

    Args:
        found: one value per seed of one protocol, at least one.

    The stamp says how many seeds; the resampling intervals of the single values are left behind
    (they hold for one trained model, this one for the method). Among values that are not finite
    the mean is infinite or NaN, without interval.
    """
    if len(found) == 1:
        return found[0]
    first = found[0]
    values = [m.value for m in found]
    chance = [m.baseline for m in found if m.baseline is not None]
    detail = {**first.stamp.detail, "seeds": len(values), "interval": "Student's t over seeds"}
    return replace(
        first, value=_mean(values), interval=student_interval(values), draws=None,
        baseline=_mean(chance) if len(chance) == len(found) else None,
        stamp=replace(first.stamp, detail=detail, seed=None),
    )  # fmt: skip


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of independent values; None below two, or when one is not
    finite."""
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return None
    from scipy.stats import t

    mean = _mean(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    reach = float(t.ppf(0.975, n - 1)) * spread
    return mean - reach, mean + reach


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)  # fsum knows no infinity of both signs


def paired_difference(
    found: Sequence[Measurement], baseline: Sequence[Measurement]
) -> tuple[float, float] | None:
    """95 % interval of the mean difference of values that share their seeds, in order.

    What a seed does to both arms (a lucky start, an easy order) cancels. None below two seeds.
    """
    pairs = zip(found, baseline, strict=True)
    return student_interval([a.value - b.value for a, b in pairs])
