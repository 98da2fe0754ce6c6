"""The pictures of a latent-space card, from the tensors its measurements leave behind."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Figure
from latentsmith.reports.drawing import COLORS, drawing, to_figure
from latentsmith.reports.plots import Distances, distance_scatter, image_grid


def card_figures(
    tensors: Mapping[str, Tensor], measurements: Sequence[Measurement]
) -> dict[str, list[Figure]]:
    """Figures by the card's group.

    Args:
        tensors: as `latentsmith.metrics.latent_card` leaves them; names it does not know are left
            out: ``recon`` [2, N, C, H, W], ``pairs_<reference>`` [2, M], ``path_speeds_<kind>``
            [P, T], ``path_grid_<kind>`` [N, T, C, H, W], ``midpoints`` [N, C, H, W],
            ``channel_moments`` [2, C].
        measurements: the card's, for the correlations printed over the scatters.
    """
    found: dict[str, list[Figure]] = {
        "reconstruction": _reconstructions(tensors),
        "geometry": _pairs(tensors, {m.name: m for m in measurements}),
        "smoothness": [*_speeds(tensors), *_paths(tensors), *_midpoints(tensors)],
        "statistics": _channels(tensors),
    }
    return {group: figures for group, figures in found.items() if figures}


def _starting(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _reconstructions(tensors: Mapping[str, Tensor]) -> list[Figure]:
    if "recon" not in tensors:
        return []
    images, recon = tensors["recon"]
    rows = [("original", images), ("decoded", recon)]
    return [
        image_grid(
            rows,
            caption="Held-out images and what the decoder makes of their latents.",
            alt=f"{len(images)} images above their reconstructions.",
        )
    ]


def _pairs(tensors: Mapping[str, Tensor], named: Mapping[str, Measurement]) -> list[Figure]:
    figures = []
    for reference, (latent, other) in _starting(tensors, "pairs_").items():
        r = named.get(f"pairdist_pearson_{reference}")
        if r is None:
            continue
        caption = f"Distances of random image pairs in {reference} and in the latent space."
        panel = Distances(reference, latent, other, r)
        figures.append(distance_scatter([panel], caption=caption, reference=reference))
    return figures


def _speeds(tensors: Mapping[str, Tensor]) -> list[Figure]:
    kinds = _starting(tensors, "path_speeds_")
    if not kinds:
        return []
    with drawing(6, 2.8) as fig:
        ax = fig.subplots()
        for i, (kind, speeds) in enumerate(kinds.items()):
            values = speeds.double().cpu().numpy()  # [P, T]
            t = (np.arange(values.shape[1]) + 0.5) / values.shape[1]
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
            ax.fill_between(t, low, high, color=COLORS[i + 1], alpha=0.15, linewidth=0)
            ax.plot(t, middle, color=COLORS[i + 1], label=kind)
        ax.set(xlabel="position on the path t", ylabel="perceptual speed", xlim=(0, 1))
        ax.set_ylim(bottom=0)
        ax.legend()
        caption = (
            "How fast the decoded image changes along paths between two images' latents: median "
            "and middle half of the paths. Flat is smooth; a bump is a jump between images."
        )
        return [
            to_figure(fig, caption, f"Perceptual speed over t for {', '.join(kinds)}.", wide=False)
        ]


def _paths(tensors: Mapping[str, Tensor]) -> list[Figure]:
    figures = []
    for kind, grid in _starting(tensors, "path_grid_").items():
        rows = [("", path) for path in grid[:4]]
        heads = [f"{i / max(grid.shape[1] - 1, 1):.2f}" for i in range(grid.shape[1])]
        caption = f"Decoded paths ({kind}) between pairs of held-out images."
        figures.append(image_grid(rows, heads=heads, caption=caption, alt=caption))
    return figures


def _midpoints(tensors: Mapping[str, Tensor]) -> list[Figure]:
    if "midpoints" not in tensors:
        return []
    images = tensors["midpoints"][:20]
    rows = [("", images[i : i + 10]) for i in range(0, len(images), 10)]
    caption = "Decoded midpoints of nearest latents: holes in the latent space show here."
    return [image_grid(rows, caption=caption, alt=caption)]


def _channels(tensors: Mapping[str, Tensor]) -> list[Figure]:
    if "channel_moments" not in tensors:
        return []
    mean, std = tensors["channel_moments"].double().cpu().numpy()
    with drawing(6, 2.4) as fig:
        ax = fig.subplots()
        ax.errorbar(range(len(mean)), mean, yerr=std, fmt="o", color=COLORS[1], capsize=2)
        ax.axhline(0, color=COLORS[0], linewidth=0.8)
        ax.locator_params(axis="x", integer=True)
        ax.set(xlabel="latent channel", ylabel="mean ± deviation")
        caption = "Each latent channel's mean and standard deviation, before normalization."
        return [to_figure(fig, caption, caption, wide=False)]
