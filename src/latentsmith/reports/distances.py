"""Latent against reference distances, drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Figure
from latentsmith.reports.drawing import drawing, to_figure
from latentsmith.reports.numbers import interval_text, value_text


@dataclass(frozen=True)
class Distances:
    """Pair distances of the same pairs in two spaces, for `distance_scatter`. 1-d, equal length."""

    label: str
    latent: Tensor
    reference: Tensor
    r: Measurement
    """The distance correlation to print (of the whole set, not of the pairs drawn)."""


def distance_scatter(
    panels: Sequence[Distances], *, caption: str, most: int = 200_000, reference: str = "reference"
) -> Figure:
    """Latent against reference distances, panels side by side on the same axes.

    Each axis is divided by its mean, so that only shape matters (the correlation ignores scale);
    at most ``most`` pairs are drawn, evenly taken.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    cmap = LinearSegmentedColormap.from_list("density", ["#dbe7f4", "#4a8fd0", "#0b3c73"])
    data = [(p, _scaled(p.reference, most), _scaled(p.latent, most)) for p in panels]
    high_x = max(float(np.quantile(x, 0.9995)) for _, x, _ in data)
    high_y = max(float(np.quantile(y, 0.9995)) for _, _, y in data)
    with drawing(3.6 * len(panels) + 0.8, 3.7) as fig:
        axes = fig.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        shades = None
        for ax, (panel, x, y) in zip(axes, data, strict=True):
            shades = ax.hexbin(
                x, y, gridsize=55, extent=(0, high_x, 0, high_y), mincnt=1, cmap=cmap,
                norm=LogNorm(), linewidths=0.1,
            )  # fmt: skip
            ax.set_title(
                f"{panel.label}: r = {value_text(panel.r)} {interval_text(panel.r)}".rstrip()
            )
            ax.set_xlabel(f"distance in {reference} / mean")
            ax.set(xlim=(0, high_x), ylim=(0, high_y))
        axes[0].set_ylabel("latent distance / mean")
        if shades is not None:
            fig.colorbar(shades, ax=list(axes), label="pairs (log)", shrink=0.9, pad=0.01)
        found = "; ".join(f"{p.label} r = {p.r.value:.3f}" for p in panels)
        alt = f"Density of latent against {reference} pair distances. {found}."
        return to_figure(fig, caption, alt, kind="png", wide=len(panels) > 1)


def _scaled(d: Tensor, most: int) -> np.ndarray:
    x = d.detach().double().flatten().cpu()
    step = max(1, math.ceil(len(x) / most))
    return (x / x.mean())[::step].numpy()
