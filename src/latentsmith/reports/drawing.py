"""One style for all pictures, and the way from matplotlib to a `Figure`.

matplotlib is imported inside and drawn by Agg without touching pyplot's global state, so plotting
is safe beside a user's own.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

COLORS = ("#6b7280", "#0b5cad", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#1b1f24")
"""Grey first, for the baseline; the rest tell apart with any colour vision (after Okabe, Ito)."""
GOOD = "#1a7f37"
INK, SOFT = "#1b1f24", "#8b949e"

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e9ee",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "latentsmith",  # same content, same bytes
}


@contextmanager
def drawing(width: float, height: float) -> Iterator["Drawing"]:
    """A styled matplotlib figure of ``width`` x ``height`` inches, outside pyplot; `to_figure` lays
    it out."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    with mpl.rc_context(_STYLE):
        yield Drawing(figsize=(width, height))


def to_figure(
    drawing: "Drawing",
    caption: str,
    alt: str,
    *,
    kind: Literal["svg", "png"] = "svg",
    dpi: int = 150,
    wide: bool = True,
    tight: bool = False,
) -> Figure:
    """Render a matplotlib figure to bytes. Without dates, so equal content is equal bytes.

    ``tight`` cuts the margins off; text has one size on the page whatever the dots per inch.
    """
    out = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    _lay_out(drawing, kind, dpi)
    box = drawing.get_tightbbox().padded(0.04) if tight else drawing.bbox_inches
    drawing.savefig(out, format=kind, dpi=dpi, metadata=metadata, bbox_inches=box)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return Figure(out.getvalue(), caption, alt, media, wide, round(96 * box.width))


def _lay_out(drawing: "Drawing", kind: Literal["svg", "png"], dpi: int) -> None:
    """Axes beside each other, with room for their labels. A figure that is asked to lay itself out
    is drawn twice by ``savefig``, the first time for the layout alone."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if kind == "svg":
        FigureCanvasSVG(drawing)  # measures text as it will write it
    drawing.set_dpi(72 if kind == "svg" else dpi)
    ConstrainedLayoutEngine().execute(drawing)


def panels_of(fig: "Drawing", count: int, columns: int = 3) -> list["Axes"]:
    """``count`` panels in rows of at most ``columns``."""
    columns = min(columns, max(count, 1))
    rows = math.ceil(count / columns)
    grid = fig.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in grid[count:]:
        empty.set_axis_off()
    return grid[:count]


def whiskers(m: Measurement) -> list[list[float]] | None:
    """matplotlib's ``[[below], [above]]``, never negative (a bootstrap interval may miss)."""
    if m.interval is None:
        return None
    return [[max(m.value - m.interval[0], 0)], [max(m.interval[1] - m.value, 0)]]


def thousands() -> Any:
    """Axis labels as 16k, 1M: a formatter for matplotlib."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def legend_below(fig: "Drawing", names: Sequence[str], color: Mapping[str, str]) -> None:
    """One legend for all axes, under them: a line of each name's colour."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color[n], label=n) for n in names]
    fig.legend(handles=handles, loc="outside lower left", ncols=min(len(names), 4))
