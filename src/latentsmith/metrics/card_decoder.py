"""The parts of a latent card that run the model: smoothness of decoded paths, equivariance."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import CardConfig, LatentCard
from latentsmith.metrics.frechet import frechet_distance, frechet_floor
from latentsmith.metrics.ifid import decode_midpoints, nearest_partner
from latentsmith.metrics.interpolation import Path, path_grid
from latentsmith.metrics.path_length import (
    Distance,
    mean_speed,
    neighbouring_pairs,
    path_speeds,
    speed_cv,
    speed_variance,
)
from latentsmith.metrics.registry import METRICS

ImagesTo = Callable[[Tensor], Tensor]
PATHS: tuple[Path, ...] = ("lerp", "slerp")


def measure_equivariance(
    encode: ImagesTo, images: Tensor, *, stamp: Stamp, cfg: CardConfig | None = None
) -> LatentCard:
    """``equivariance_error_<transform>`` for each configured transform.

    Args:
        encode: images [B, C, H, W] in [0, 1] → latents [B, C', h, w].
        images: [N, C, H, W]; the first ``cfg.equivariance_images`` are used.
    """
    cfg = cfg or CardConfig()
    card = LatentCard()
    images = images[: cfg.equivariance_images]
    stamp = replace(stamp, count=len(images))
    for transform in cfg.transforms:
        card.add(
            "equivariance_error", encode, images, stamp=stamp, label=transform,
            transform=transform, resamples=cfg.resamples, seed=cfg.seed,
        )  # fmt: skip
    return card


def measure_path_length(
    decode: ImagesTo,
    latents: Tensor,
    distance: Distance,
    *,
    space: str,
    stamp: Stamp,
    cfg: CardConfig | None = None,
) -> LatentCard:
    """``path_length``, ``path_length_variance`` and ``path_length_cv`` for lerp and slerp.

    Paths join consecutive latents: (0, 1), (2, 3), … The speeds [P, steps] and the decoded grids
    [8, steps, C, H, W] go to ``figures`` as ``path_speeds_<kind>`` and ``path_grid_<kind>``.
    """
    cfg = cfg or CardConfig()
    card = LatentCard()
    start, end = neighbouring_pairs(latents[: 2 * cfg.paths])
    detail = {"eps": cfg.eps, "steps": cfg.steps, "unit": "squared feature change / eps^2"}
    for kind in PATHS:
        try:
            speeds = path_speeds(
                decode, start, end, distance,
                kind=kind, steps=cfg.steps, eps=cfg.eps, batch_size=cfg.batch_size,
            )  # fmt: skip
        except UserError as reason:
            card.not_measured[f"path_length_{kind}_{space}"] = str(reason)
            continue
        card.figures[f"path_speeds_{kind}"] = speeds.float()
        card.figures[f"path_grid_{kind}"] = path_grid(
            decode, start[:8], end[:8], steps=cfg.steps, kind=kind
        )
        for name, summarize in (
            ("path_length", mean_speed),
            ("path_length_variance", speed_variance),
            ("path_length_cv", speed_cv),
        ):
            found = METRICS[name].from_samples(
                summarize(speeds),
                stamp=replace(
                    stamp,
                    count=len(start),
                    space=space,
                    detail={**stamp.detail, **detail, "kind": kind, "count_of": "paths"},
                ),
                suffix=f"{kind}_{space}",
                resamples=cfg.resamples,
                seed=cfg.seed,
            )
            card.measurements.append(found)
    return card


def measure_ifid(
    decode: ImagesTo,
    latents: Tensor,
    extract: ImagesTo,
    features_ref: Tensor,
    *,
    space: str,
    stamp: Stamp,
    cfg: CardConfig | None = None,
    bank: Tensor | None = None,
    partner: Tensor | None = None,
) -> LatentCard:
    """``ifd_<space>``: Fréchet distance of decoded midpoints of nearest latents to real images.

    Args:
        latents: [N, ...]; the first ``cfg.midpoints`` are interpolated.
        features_ref: features of the real images those latents came from [N, D].
        bank, partner: see `decode_midpoints`.

    The stamp's detail carries the same-distribution floor at this count and
    ``figures["midpoints"]`` the first decoded midpoints.
    """
    cfg = cfg or CardConfig()
    card = LatentCard()
    latents, real = latents[: cfg.midpoints], features_ref[: cfg.midpoints]
    name = f"ifd_{space}"
    try:
        if partner is None:
            partner = nearest_partner(latents, bank, "lerp")
        mid = decode_midpoints(
            decode, latents, extract, bank=bank, partner=partner, batch_size=cfg.batch_size
        )
        value = frechet_distance(mid.features, real)
        floor, halves = frechet_floor(real, len(latents), seed=cfg.seed)
    except UserError as reason:
        card.not_measured[name] = str(reason)
        return card
    detail = {
        **stamp.detail,
        **halves,
        "alpha": 0.5,
        "kind": "lerp",
        "neighbours": "other latents" if bank is None else f"bank of {len(bank)}",
        "baseline": "two sets of one distribution at this n",
    }
    card.measurements.append(
        METRICS["ifd"].from_replicates(
            value,
            None,
            stamp=replace(stamp, count=len(latents), space=space, detail=detail),
            suffix=space,
            seed=cfg.seed,
            baseline=(floor, {}),
        )
    )
    card.figures["midpoints"] = mid.images
    return card


def measure_smoothness(
    decode: ImagesTo,
    latents: Tensor,
    *,
    distance: Distance,
    distance_space: str,
    extract: dict[str, tuple[ImagesTo, Tensor]] | None = None,
    stamp: Stamp,
    cfg: CardConfig | None = None,
) -> LatentCard:
    """Stage B: path lengths in one perceptual space, iFID-like distances in any number.

    Args:
        decode: latents → images in [0, 1].
        latents: [N, C, h, w], raw latents as ``decode`` takes them.
        distance: (images, images) → squared perceptual distance [B]; LPIPS or `squared_distance`.
        distance_space: its name.
        extract: space → (images → features, features of the real images [N, D]).
    """
    cfg = cfg or CardConfig()
    card = measure_path_length(
        decode, latents, distance, space=distance_space, stamp=stamp, cfg=cfg
    )
    partner = nearest_partner(latents[: cfg.midpoints], None, "lerp") if extract else None
    for space, (features, real) in (extract or {}).items():
        card.extend(
            measure_ifid(
                decode,
                latents,
                features,
                real,
                space=space,
                stamp=stamp,
                cfg=cfg,
                partner=partner,
            )
        )
    return card


@torch.no_grad()
def in_batches(function: ImagesTo, x: Tensor, batch_size: int) -> Tensor:
    """``function`` over x [N, ...] in batches of one fixed size, results joined on the CPU."""
    return torch.cat([function(batch).cpu() for batch in x.split(batch_size)])
