"""Numbers as readers want them: as many digits as carry information, units, intervals."""

import math

from latentsmith.metrics.base import Measurement, Stamp


def number_text(value: float | int, unit: str = "") -> str:
    """``0.834``, ``24.91 dB``, ``85.4 %``, ``12,345``, ``1.2e−5``, ``NaN``, ``∞``."""
    text = _digits(value, unit, like=value)
    return f"{text} {unit}" if unit else text


def value_text(m: Measurement) -> str:
    """The point value with its unit."""
    return number_text(m.value, m.unit)


def interval_text(m: Measurement) -> str:
    """``[0.812, 0.846]``, as many decimals as the value has; empty without an interval."""
    if m.interval is None:
        return ""
    low, high = (_digits(float(end), m.unit, like=m.value) for end in m.interval)
    return f"[{low}, {high}]"


def chance_text(m: Measurement) -> str:
    """`Measurement.baseline`, as many decimals as the value has; empty without one."""
    return "" if m.baseline is None else _digits(m.baseline, m.unit, like=m.value)


def _digits(value: float | int, unit: str, *, like: float) -> str:
    """``value`` with the decimals that suit ``like``, so that numbers shown together line up."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if math.isfinite(like) and (like == 0 or 1e-3 <= abs(like) < 1e7):
        text = f"{value:,.{_decimals(like, unit)}f}"
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


def _decimals(value: float, unit: str) -> int:
    if unit == "%":
        return 1
    if unit == "dB":
        return 2
    size = abs(value)
    return 3 if size < 10 else 2 if size < 100 else 1 if size < 10_000 else 0


def stamp_text(stamp: Stamp) -> str:
    """One line with everything that moves the number, for tooltips and plain text."""
    parts = [stamp.data, f"n = {stamp.count:,}"]
    if stamp.space:
        parts.append(stamp.space)
    if stamp.sampler is not None:
        parts.append(f"sampler {stamp.sampler}")
    if stamp.steps is not None:
        parts.append(f"{stamp.steps} steps")
    if stamp.seed is not None:
        parts.append(f"seed {stamp.seed}")
    if stamp.ema is not None:
        parts.append("EMA weights" if stamp.ema else "raw weights")
    parts += [f"{key} {value}" for key, value in stamp.detail.items()]
    parts += [f"{key} {value}" for key, value in stamp.versions.items()]
    return " · ".join(parts)
