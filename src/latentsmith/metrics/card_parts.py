"""The parts of a latent card that need tensors only: geometry, probes, reconstruction."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import CardConfig, LatentCard
from latentsmith.metrics.checks import check_finite, check_paired
from latentsmith.metrics.frechet import frechet_floor
from latentsmith.metrics.latent_stats import channel_moments
from latentsmith.metrics.points import Points
from latentsmith.metrics.probes import pca_features
from latentsmith.metrics.registry import METRICS
from latentsmith.utils.seeding import generator

LABEL_GEOMETRY = ("pairdist_pearson", "pairdist_spearman", "cka_linear")


def measure_geometry(
    latents: Tensor,
    references: dict[str, Tensor],
    labels: Tensor | None = None,
    *,
    stamp: Stamp,
    cfg: CardConfig | None = None,
) -> LatentCard:
    """Pair geometry against every reference and the class labels, dimension, latent statistics.

    Args:
        latents: [N, C, H, W] (or [N, D]); the first ``cfg.points`` are used.
        references: name → [N, D], rows paired with the latents.
        labels: int [N]: as a geometry (0 within, 1 across classes) and for k-NN accuracy.
        stamp: data and split; count and space are filled in here.

    Raises:
        UserError: NaN, unpaired inputs. A metric undefined on this data goes to ``not_measured``.
    """
    cfg = cfg or CardConfig()
    card = LatentCard()
    count = min(len(latents), cfg.points)
    stamp = replace(stamp, count=count)
    check_finite(latents, "latents")
    z = Points(latents[:count], "latents")
    how: dict[str, Any] = {"resamples": cfg.resamples, "seed": cfg.seed}
    for name, vectors in references.items():
        check_paired(latents, vectors, "latents", f"reference {name!r}")
        r = Points(vectors[:count], f"reference {name!r}")
        for metric in METRICS.taking("latents", "reference"):
            k: dict[str, Any] = {"k": cfg.neighbours} if "k" in metric.options else {}
            card.add(metric.name, z, r, stamp=stamp, space=name, **how, **k)
        card.figures[f"pairs_{name}"] = pair_sample(z, r, cfg.seed)
    if labels is not None:
        check_paired(latents, labels, "latents", "labels")
        classes = Points.of_labels(labels[:count])
        for metric in LABEL_GEOMETRY:
            card.add(metric, z, classes, stamp=stamp, space="labels", **how)
        card.add("knn_accuracy", z, labels[:count], stamp=stamp, k=cfg.neighbours, **how)
    card.add("id_twonn", z, stamp=stamp, **how)
    card.add("id_mle", z, stamp=stamp, k=cfg.id_neighbours, **how)
    return card.extend(measure_statistics(latents, stamp=stamp))


def measure_statistics(latents: Tensor, *, stamp: Stamp) -> LatentCard:
    """Scale, kurtosis, active dimensions, participation ratio, spectral slope of latents
    [N, C, ...]; per-channel mean and deviation in ``figures["channel_moments"]`` [2, C]."""
    card = LatentCard()
    stamp = replace(stamp, count=len(latents))
    for metric in METRICS.taking("maps"):
        card.add(metric.name, latents, stamp=stamp)
    card.figures["channel_moments"] = torch.stack(channel_moments(latents))
    return card


def pair_sample(latents: Points, reference: Points, seed: int, most: int = 5000) -> Tensor:
    """Random pairs' latent and reference distances, each over its mean: float32 [2, M]."""
    n = len(latents)
    gen = generator("pair-sample", seed)
    i = torch.randint(n, (most,), generator=gen)
    j = (i + torch.randint(1, n, (most,), generator=gen)) % n
    pairs = torch.stack([p.distances[i, j] for p in (latents, reference)])
    return (pairs / pairs.mean(1, keepdim=True).clamp_min(1e-300)).float()


def measure_probes(
    train: dict[str, Tensor],
    train_labels: Tensor,
    test: dict[str, Tensor],
    test_labels: Tensor,
    *,
    stamp: Stamp,
    cfg: CardConfig | None = None,
) -> LatentCard:
    """Linear and k-NN probes of each feature set; ``"latents"`` is the subject, others controls.

    Args:
        train, test: name → [N, ...] and [M, ...]. With ``"pixels"`` among them, PCA of the pixels
            at the latents' width is added as ``pixel_pca``.
    """
    cfg = cfg or CardConfig()
    card = LatentCard()
    train, test = dict(train), dict(test)
    if "pixels" in train and "latents" in train:
        width = train["latents"][0].numel()
        train["pixel_pca"], test["pixel_pca"] = pca_features(train["pixels"], test["pixels"], width)
    stamp = replace(
        stamp,
        count=len(test_labels),
        detail={**stamp.detail, "train_count": len(train_labels)},
    )
    how: dict[str, Any] = {"resamples": cfg.resamples, "seed": cfg.seed}
    for name in train:
        space = "" if name == "latents" else name
        for metric in ("linear_probe", "knn_probe"):
            k: dict[str, Any] = {"k": cfg.neighbours} if metric == "knn_probe" else {}
            card.add(
                metric, train[name], train_labels, test[name], test_labels,
                stamp=stamp, space=space, **how,
                **k,
            )  # fmt: skip
    return card


def measure_reconstruction(
    images: Tensor,
    recon: Tensor,
    features: dict[str, tuple[Tensor, Tensor]] | None = None,
    *,
    stamp: Stamp,
    distances: dict[str, Tensor] | None = None,
    cfg: CardConfig | None = None,
) -> LatentCard:
    """PSNR, SSIM, MS-SSIM where the size allows, and per feature space Fréchet and kernel distance.

    Args:
        images, recon: [N, C, H, W], images in [0, 1].
        features: space → (of the reconstructions [N, D], of the real images [N, D]).
        distances: name → per-image perceptual distance [N] already at hand (``"lpips"``).
    """
    cfg = cfg or CardConfig()
    card = LatentCard()
    stamp = replace(stamp, count=len(images))
    how: dict[str, Any] = {"resamples": cfg.resamples, "seed": cfg.seed}
    for metric in METRICS.taking("images", "recon"):
        if metric.name == "ms_ssim" and min(images.shape[-2:]) < 161:
            continue  # not a failure: defined for large images only
        card.add(metric.name, images, recon, stamp=stamp, **how)
    for space, (made, real) in (features or {}).items():
        floor, halves = frechet_floor(real, len(made), seed=cfg.seed)
        detail = {**stamp.detail, **halves, "baseline": "two sets of one distribution at this n"}
        card.add("fd", made, real, stamp=replace(stamp, detail=detail), space=space, baseline=floor)
        card.add("kid", made, real, stamp=stamp, space=space, **how)
    for name, values in (distances or {}).items():
        found = METRICS["perceptual_distance"].from_samples(
            values, stamp=replace(stamp, space=name), **how
        )
        card.measurements.append(replace(found, name=name))
    return card
