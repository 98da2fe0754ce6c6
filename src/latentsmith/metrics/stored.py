"""Reconstruction errors of as many images as a store of reconstructions has.

Read in pieces: means and Fréchet distances (from sums, `FeatureStats`) take the same memory for any
number of images. What compares features with features takes a sample of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import CardConfig, LatentCard
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import frechet_from_stats, gaussian_floor
from latentsmith.metrics.generation_reference import random_rows
from latentsmith.metrics.registry import METRICS
from latentsmith.stores.base import FeatureStore, open_store
from latentsmith.stores.reconstructions import MADE, REAL

CHUNK = 4096
"""Rows read at once."""


def open_reconstructions(place: str, autoencoder: Autoencoder) -> FeatureStore:
    """The store at a folder or URL. Raises UserError when there is none, it holds something else,
    or another autoencoder made it."""
    store = open_store(place)
    made = store.manifest
    if made.content != "reconstructions":
        raise UserError(
            f"{place} is a store of {made.content}, not of reconstructions: make one with "
            "latentsmith cache reconstructions"
        )
    wanted = autoencoder.digest()
    if made.encoder.get("weights") != wanted:
        raise UserError(
            f"{place} holds reconstructions by another autoencoder "
            f"({str(made.encoder.get('weights'))[:12]}) than {autoencoder.source!r} "
            f"({wanted[:12]}): make one with latentsmith cache reconstructions {autoencoder.source}"
        )
    return store


def measure_stored(store: FeatureStore, *, cfg: CardConfig | None = None) -> LatentCard:
    """PSNR, SSIM and LPIPS with intervals, Fréchet and kernel distance, of all readable images.

    Args:
        store: of reconstructions, see `open_reconstructions`.
        cfg: how: ``resamples``, ``seed``, and ``points``, the most that a kernel distance takes.
    """
    cfg, card, made = cfg or CardConfig(), LatentCard(), store.manifest
    rows = torch.tensor([r for r in range(len(store)) if r not in store.unreadable])
    space = str(made.encoder["features"]["name"])
    detail = {"transform": made.transform, "store": made.fingerprint(), "weights": made.encoder}
    stamp = Stamp(data=str(made.source["name"]), count=len(rows), seed=cfg.seed, detail=detail)
    for name in made.fields:
        if name not in (REAL, MADE):
            values = torch.cat([part[name] for part in _pieces(store, rows, [name])])
            metric = METRICS["perceptual_distance" if name.startswith("lpips") else name]
            found = metric.from_samples(values, stamp=stamp, resamples=cfg.resamples, seed=cfg.seed)
            card.measurements.append(replace(found, name=name))
    _frechet(card, store, rows, space, stamp, cfg)
    few = random_rows(rows, cfg.points, cfg.seed, "stored")
    part = store.gather(few, fields=[REAL, MADE])
    card.add(
        "kid", part[MADE], part[REAL], stamp=replace(stamp, count=len(few)), space=space,
        resamples=cfg.resamples, seed=cfg.seed,
    )  # fmt: skip
    return card


def _frechet(
    card: LatentCard, store: FeatureStore, rows: Tensor, space: str, stamp: Stamp, cfg: CardConfig
) -> None:
    sides = {
        side: FeatureStats(store.manifest.fields[side].shape[0], space) for side in (REAL, MADE)
    }
    for part in _pieces(store, rows, list(sides)):
        for side, stats in sides.items():
            stats.update(part[side])
    try:
        value = frechet_from_stats(sides[MADE], sides[REAL])
        floor, how = gaussian_floor(sides[REAL], min(len(rows), cfg.points), seed=cfg.seed)
    except UserError as reason:  # too few
        card.not_measured[f"fd_{space}"] = str(reason)
        return
    floor *= min(len(rows), cfg.points) / len(rows)  # it falls like 1/n
    how = {"baseline": "two sets of one distribution at this n", **how}
    card.measurements.append(
        METRICS["fd"].from_replicates(
            value, None, stamp=replace(stamp, space=space), suffix=space, seed=cfg.seed,
            baseline=(floor, how),
        )
    )  # fmt: skip


def _pieces(
    store: FeatureStore, rows: Tensor, fields: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    for part in rows.split(CHUNK):
        yield store.gather(part, fields=fields)
