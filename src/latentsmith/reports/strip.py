"""The small picture in a verdict row: value with interval against the bar it must clear."""

import math
from xml.sax.saxutils import escape

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Target
from latentsmith.reports.numbers import number_text, value_text

WIDTH, HEIGHT = 168, 30
_LEFT, _RIGHT, _MID = 8, WIDTH - 8, 15


def strip(target: Target) -> str:
    """Inline SVG (no text, colours by class), or an empty string where nothing can be drawn."""
    m, bound = target.measurement, target.bound
    if m is None or bound is None or not (math.isfinite(m.value) and math.isfinite(bound)):
        return ""
    ends = [bound, *_extent(m), *(_extent(target.reference) if target.reference else ())]
    low, high = min(ends), max(ends)
    pad = 0.12 * (high - low) or max(abs(bound) * 0.05, 1e-9)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 1)

    bar = x(bound)
    # Which side of the bar is good, from where the rule points (a baseline's from its direction).
    up = target.rule == "above" or (target.rule != "below" and m.higher_is_better)
    left, right = (bar, WIDTH) if up else (0, bar)
    parts = [
        f'<rect class="good" x="{left}" y="3" width="{right - left:.1f}" height="{HEIGHT - 6}"/>',
        f'<line class="bar" x1="{bar}" x2="{bar}" y1="3" y2="{HEIGHT - 3}"/>',
    ]
    if target.reference is not None and math.isfinite(target.reference.value):
        parts.append(f'<circle class="ref" cx="{x(target.reference.value)}" cy="{_MID}" r="4"/>')
    if m.interval is not None and all(map(math.isfinite, m.interval)):
        a, b = map(x, m.interval)
        parts.append(f'<line class="interval" x1="{a}" x2="{b}" y1="{_MID}" y2="{_MID}"/>')
    kind = "go" if target.verdict == "go" else "no"
    parts.append(f'<circle class="value {kind}" cx="{x(m.value)}" cy="{_MID}" r="4.5"/>')
    words = escape(f"{value_text(m)} against {number_text(bound, m.unit)}", {'"': "&quot;"})
    head = f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">'
    return head + "".join(parts) + "</svg>"


def _extent(m: Measurement) -> list[float]:
    return [v for v in (m.value, *(m.interval or ())) if math.isfinite(v)]
