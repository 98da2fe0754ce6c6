"""What is gained against what it costs, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Figure
from latentsmith.reports.drawing import COLORS, GOOD, drawing, to_figure, whiskers
from latentsmith.reports.numbers import value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TradePoint:
    """One run in `tradeoff`: what is gained, what it costs."""

    label: str
    gain: Measurement
    cost: Measurement


def tradeoff(
    points: Sequence[TradePoint],
    *,
    caption: str,
    gain_label: str,
    cost_label: str,
    gain_bar: float | None = None,
    cost_bar: float | None = None,
    cost_bar_label: str = "",
    baseline: TradePoint | None = None,
) -> Figure:
    """Gain (y) against cost (x), joined in the given order, with both bars.

    The shaded corner meets both: above ``gain_bar`` and on the better side of ``cost_bar``
    (the direction is the cost measurement's ``higher_is_better``).
    """
    with drawing(7.2, 4.4) as fig:
        ax = fig.subplots()
        ax.plot([p.cost.value for p in points], [p.gain.value for p in points], color="#9db8d6")
        for p in points:
            _cross(ax, p, COLORS[1], "o")
        if baseline is not None and not any(_same(baseline, p) for p in points):
            _cross(ax, baseline, COLORS[0], "s")
        _bars(ax, points, gain_bar, cost_bar, cost_bar_label)
        ax.set_xlabel(cost_label)
        ax.set_ylabel(gain_label)
        named = [*points, *([baseline] if baseline else [])]
        listed = "; ".join(f"{p.label}: {value_text(p.gain)}, {value_text(p.cost)}" for p in named)
        return to_figure(fig, caption, f"{gain_label} against {cost_label}. {listed}.")


def _cross(ax: "Axes", p: TradePoint, color: str, marker: str) -> None:
    """A point with the whiskers of its two intervals and its name."""
    x, y = p.cost, p.gain
    ax.errorbar(
        x.value, y.value, xerr=whiskers(x), yerr=whiskers(y), fmt=marker, color=color,
        ecolor=color, elinewidth=1, capsize=2, markersize=6,
    )  # fmt: skip
    ax.annotate(p.label, (x.value, y.value), textcoords="offset points", xytext=(7, 5), fontsize=9)


def _same(a: TradePoint, b: TradePoint) -> bool:
    """Whether one would hide the other (a sweep's run with weight 0 is the baseline)."""
    return (a.gain.value, a.cost.value) == (b.gain.value, b.cost.value)


def _bars(
    ax: "Axes",
    points: Sequence[TradePoint],
    gain_bar: float | None,
    cost_bar: float | None,
    cost_bar_label: str,
) -> None:
    from matplotlib.patches import Rectangle

    up = not points or points[0].cost.higher_is_better is not False
    if gain_bar is not None:
        ax.axhline(gain_bar, color=GOOD, linewidth=1.2, linestyle="--")
    if cost_bar is not None:
        ax.axvline(cost_bar, color=GOOD, linewidth=1.2, linestyle="--")
    ax.margins(0.12)
    ax.autoscale_view()
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    if gain_bar is not None:
        ax.annotate(f"target {gain_bar:g}", (x1, gain_bar), textcoords="offset points",
                    xytext=(-3, 3), ha="right", color=GOOD, fontsize=9)  # fmt: skip
    if cost_bar is not None:
        ax.annotate(cost_bar_label or f"{cost_bar:g}", (cost_bar, y0), rotation=90, color=GOOD,
                    textcoords="offset points", xytext=(-11, 4), fontsize=9)  # fmt: skip
    if gain_bar is not None and cost_bar is not None:
        left, right = (cost_bar, x1) if up else (x0, cost_bar)
        corner = Rectangle((left, gain_bar), right - left, y1 - gain_bar, color=GOOD, alpha=0.09)
        ax.add_patch(corner)
    ax.set(xlim=(x0, x1), ylim=(y0, y1))
