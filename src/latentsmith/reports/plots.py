"""Pictures in one style. Each function returns a `Figure` for a report.

Curves are SVG (small, sharp, text stays text), dense pictures PNG.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Figure
from latentsmith.reports.distances import Distances, distance_scatter
from latentsmith.reports.drawing import (
    COLORS,
    INK,
    drawing,
    legend_below,
    panels_of,
    thousands,
    to_figure,
    whiskers,
)
from latentsmith.reports.numbers import value_text
from latentsmith.reports.tradeoff import TradePoint, tradeoff

__all__ = [
    "Distances",
    "TradePoint",
    "bars",
    "curves",
    "distance_scatter",
    "image_grid",
    "spectrum",
    "to_figure",
    "tradeoff",
    "training_curves",
]

Log = Sequence[Mapping[str, Any]]
"""Records of a metrics.jsonl: ``{"kind": "train" or "validation", "samples", name: value}``."""


def curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    caption: str,
    x_label: str = "samples",
    log_y: bool = False,
) -> Figure:
    """Small multiples: ``{panel: {line: (x, y)}}``. Lines keep their colour across panels."""
    names = list(dict.fromkeys(n for lines in panels.values() for n in lines))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    rows = math.ceil(max(len(panels), 1) / 3)
    with drawing(10, 2.5 * rows + 0.4) as fig:
        for ax, (title, lines) in zip(panels_of(fig, len(panels)), panels.items(), strict=True):
            for name, (x, y) in lines.items():
                ax.plot(*_thin(x, y), color=color[name], label=name)
            ax.set_title(title)
            ax.set_xlabel(x_label)
            ax.xaxis.set_major_formatter(thousands())
            ax.locator_params(axis="x", nbins=5)
            if log_y:
                ax.set_yscale("log")
        if len(names) > 1:
            legend_below(fig, names, color)
        alt = f"Curves of {', '.join(panels)} over {x_label} for {', '.join(names)}."
        return to_figure(fig, caption, alt)


def training_curves(
    logs: Mapping[str, Log], *, caption: str, keys: Sequence[str] | None = None, most: int = 9
) -> Figure | None:
    """Curves of metrics.jsonl logs, one line per run: ``{run: records}``.

    One panel per ``"<kind> <name>"``; ``keys`` picks and orders them, otherwise the first ``most``
    stand, losses and validation first. None when the logs hold no curve (two finite points).
    """
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for run, records in logs.items():
        for record in records:
            for name, value in record.items():
                if name in ("kind", "samples") or not isinstance(value, int | float):
                    continue
                line = panels.setdefault(f"{record['kind']} {name}", {}).setdefault(run, ([], []))
                line[0].append(record["samples"])
                line[1].append(value)
    drawn = {k: lines for k, lines in panels.items() if any(len(x) > 1 for x, _ in lines.values())}
    if keys is None:
        order = sorted(drawn, key=lambda k: (not k.endswith(" loss"), k.startswith("train")))
        keys = order[:most]
    chosen = {k: drawn[k] for k in keys if k in drawn}
    return curves(chosen, caption=caption) if chosen else None


def _thin(x: Sequence[float], y: Sequence[float], most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points, each the mean of its bucket: a page is not a log."""
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(xs) <= most:
        return xs, ys
    edges = np.linspace(0, len(xs), most + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(xs)))
    return np.add.reduceat(xs, edges) / counts, np.add.reduceat(ys, edges) / counts


def image_grid(
    rows: Sequence[tuple[str, Tensor]],
    *,
    caption: str,
    alt: str,
    heads: Sequence[str] | None = None,
    tile: float = 0.85,
) -> Figure:
    """Rows of pictures with their labels at the left: ``[(label, [N, C, H, W] in [0, 1]), …]``.

    For original / baseline / regularized rows and for interpolation rows. ``heads`` names the
    columns; ``tile`` is a picture's width in inches. Rows may differ in N and size. One or three
    channels; values outside [0, 1] are clamped.
    """
    columns = max(images.shape[0] for _, images in rows)
    pixels = max(images.shape[-1] for _, images in rows)
    with drawing(1.5 + columns * tile, len(rows) * tile + (0.3 if heads else 0.1)) as fig:
        for i, (ax, (name, images)) in enumerate(
            zip(panels_of(fig, len(rows), 1), rows, strict=True)
        ):
            strip = _strip(images, columns)
            size = strip.shape[0]
            kind = "nearest" if size < 96 else "antialiased"  # small pictures: show their pixels
            ax.imshow(strip, cmap="gray", vmin=0, vmax=1, interpolation=kind)
            ax.grid(False)
            ax.set_yticks([size / 2 - 0.5], [name])
            ax.set_xticks([])
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            if i == 0 and heads:
                step = strip.shape[1] / columns
                ax.set_xticks([(k + 0.5) * step - 0.5 for k in range(len(heads))], list(heads))
                ax.xaxis.tick_top()
        return to_figure(fig, caption, alt, kind="png", dpi=_grid_dpi(pixels, tile), tight=True)


def _grid_dpi(pixels: int, tile: float) -> int:
    """Dots so that a tile keeps its pixels (at least 120, at most 240 per inch)."""
    return int(min(max(pixels / tile, 120), 240))


def _strip(images: Tensor, columns: int) -> np.ndarray:
    """[N, C, H, W] → [H, columns * (W + gap), 3 or nothing], white where there is no picture."""
    x = images.detach().float().clamp(0, 1).cpu()
    n, c, h, w = x.shape
    gap = max(1, w // 16)
    out = torch.ones(c, h, columns * (w + gap))
    for i in range(n):
        out[:, :, i * (w + gap) : i * (w + gap) + w] = x[i]
    return out[0].numpy() if c == 1 else out[:3].permute(1, 2, 0).numpy()


def bars(
    groups: Mapping[str, Sequence[tuple[str, Measurement]]], *, caption: str, x_label: str = ""
) -> Figure:
    """Horizontal bars with intervals: ``{arm: [(row, measurement), …]}``; a tick marks chance."""
    rows = list(dict.fromkeys(name for items in groups.values() for name, _ in items))
    height = 0.8 / max(len(groups), 1)
    with drawing(8, 0.9 + 0.28 * len(rows) * max(len(groups), 1) + 0.15 * len(rows)) as fig:
        ax = fig.subplots()
        for g, (arm, items) in enumerate(groups.items()):
            for name, m in items:
                y = rows.index(name) + (g - (len(groups) - 1) / 2) * height
                first = name == items[0][0]
                ax.barh(y, m.value, height * 0.92, color=COLORS[g % len(COLORS)],
                        label=arm if first else None, xerr=whiskers(m), ecolor=INK,
                        error_kw={"elinewidth": 1, "capsize": 2})  # fmt: skip
                if m.baseline is not None:
                    ax.plot([m.baseline] * 2, [y - height / 2, y + height / 2], color="#d55e00")
        ax.set_yticks(range(len(rows)), rows)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(x_label)
        if len(groups) > 1:
            fig.legend(loc="outside lower right", ncols=len(groups))
        alt = "; ".join(
            f"{name}, {arm}: {value_text(m)}" for arm, items in groups.items() for name, m in items
        )
        return to_figure(fig, caption, f"Bars. {alt}.")


def spectrum(series: Mapping[str, Tensor], *, caption: str) -> Figure:
    """Eigenvalues (1-d, descending) as shares of their sum, and how fast the sum fills up."""
    with drawing(8, 3) as fig:
        left, right = fig.subplots(1, 2)
        for i, (name, values) in enumerate(series.items()):
            share = values.detach().double().clamp(min=0).cpu()
            share = share / share.sum()
            rank = np.arange(1, len(share) + 1)
            color = COLORS[i % len(COLORS)]
            left.loglog(*_thin_log(rank, share.numpy()), color=color, label=name)
            right.semilogx(*_thin_log(rank, share.cumsum(0).numpy()), color=color)
        left.set(xlabel="component", title="share of variance")
        right.set(xlabel="component", title="cumulated", ylim=(0, 1.02))
        left.legend()
        alt = f"Spectrum of variance over components for {', '.join(series)}."
        return to_figure(fig, caption, alt)


def _thin_log(rank: np.ndarray, y: np.ndarray, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Points evenly spaced on a log axis."""
    if len(rank) <= most:
        return rank, y
    keep = np.unique(np.geomspace(1, len(rank), most).astype(int)) - 1
    return rank[keep], y[keep]
