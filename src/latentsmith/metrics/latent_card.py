"""The latent card: every Stage A and Stage B measurement of any autoencoder, in one call.

It takes tensors and callables, so it serves any model with an encoder and a decoder. The parts are
usable alone: `measure_geometry`, `measure_statistics`, `measure_probes`, `measure_reconstruction`,
`measure_equivariance`, `measure_smoothness` (`measure_path_length`, `measure_ifid`).
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import CardConfig, LatentCard
from latentsmith.metrics.card_decoder import (
    ImagesTo,
    in_batches,
    measure_equivariance,
    measure_smoothness,
)
from latentsmith.metrics.card_parts import (
    measure_geometry,
    measure_probes,
    measure_reconstruction,
)
from latentsmith.metrics.path_length import Distance, pixel_features, squared_distance


@dataclass
class CardData:
    """What a card is measured on. Row i of every tensor belongs to image i.

    Attributes:
        images: held-out images [N, C, H, W] in [0, 1].
        references: name → reference vectors [N, D].
        labels: class labels int [N], or None.
        train_images, train_labels: where probes are fitted; None = the first half of ``images``
            (the other half is then the test).
        features: extractor name → features of ``images`` [N, D] where they are already known.
        controls: also probe raw pixels and their PCA; they are the same for every autoencoder on
            the same images.
    """

    images: Tensor
    references: dict[str, Tensor]
    labels: Tensor | None = None
    train_images: Tensor | None = None
    train_labels: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    controls: bool = True


def latent_card(
    encode: ImagesTo,
    decode: ImagesTo,
    data: CardData,
    extractors: dict[str, ImagesTo] | None = None,
    *,
    stamp: Stamp,
    distance: tuple[str, Distance] | None = None,
    cfg: CardConfig | None = None,
) -> LatentCard:
    """Measure an autoencoder.

    Args:
        encode: images [B, C, H, W] in [0, 1] → latents [B, C', h, w] (posterior means).
        decode: those latents → images, clamped here.
        extractors: feature spaces for the Fréchet and kernel distances and the path length:
            name → (images in [0, 1] → features [B, D]).
        stamp: data and split; counts and spaces are filled in per number.
        distance: (name, perceptual distance), e.g. ``("lpips", …)``, for reconstruction and path
            length. None: path length in the first extractor's space, else in pixels.

    Returns:
        A LatentCard. Figures: ``pairs_<reference>`` [2, M], ``channel_moments`` [2, C],
        ``path_speeds_<kind>``, ``path_grid_<kind>``, ``midpoints``, ``recon`` [2, 8, C, H, W].

    Raises:
        UserError: NaN in images, latents or reconstructions; unpaired inputs.
    """
    cfg = cfg or CardConfig()
    extractors = extractors or {}
    images, batch = data.images, cfg.batch_size
    latents = in_batches(encode, images, batch)
    recon = in_batches(decode, latents, batch).clamp(0, 1)
    card = measure_geometry(latents, data.references, data.labels, stamp=stamp, cfg=cfg)
    if data.labels is not None:
        card.extend(_probes(encode, latents, data, stamp, cfg))
    real = {
        name: data.features[name] if name in data.features else in_batches(f, images, batch)
        for name, f in extractors.items()
    }
    card.extend(_reconstruction(images, recon, extractors, real, distance, stamp, cfg))
    card.extend(measure_equivariance(encode, images, stamp=stamp, cfg=cfg))
    name, along = distance or _feature_distance(extractors)
    card.extend(
        measure_smoothness(
            decode,
            latents,
            distance=along,
            distance_space=name,
            extract={space: (f, real[space]) for space, f in extractors.items()},
            stamp=stamp,
            cfg=cfg,
        )
    )
    card.figures["recon"] = _stack(images[:8], recon[:8])
    return card


def _reconstruction(
    images: Tensor,
    recon: Tensor,
    extractors: dict[str, ImagesTo],
    real: dict[str, Tensor],
    distance: tuple[str, Distance] | None,
    stamp: Stamp,
    cfg: CardConfig,
) -> LatentCard:
    """Image errors, feature distances and the perceptual distance of the reconstructions."""
    made = {name: in_batches(f, recon, cfg.batch_size) for name, f in extractors.items()}
    perceptual = {}
    if distance is not None:
        name, between = distance
        pairs = zip(images.split(cfg.batch_size), recon.split(cfg.batch_size), strict=True)
        perceptual[name] = _joined(between, list(pairs))
    return measure_reconstruction(
        images,
        recon,
        {name: (made[name], real[name]) for name in extractors},
        stamp=stamp,
        distances=perceptual,
        cfg=cfg,
    )


def _joined(distance: Distance, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([distance(a, b).double().cpu() for a, b in pairs])


def _stack(images: Tensor, recon: Tensor) -> Tensor:
    return torch.stack([images, recon])


def _feature_distance(extractors: dict[str, ImagesTo]) -> tuple[str, Distance]:
    for name, extract in extractors.items():
        return name, squared_distance(extract)
    return "pixels", squared_distance(pixel_features)


def _probes(
    encode: ImagesTo, latents: Tensor, data: CardData, stamp: Stamp, cfg: CardConfig
) -> LatentCard:
    """Probes on latents with the controls raw pixels and pixel PCA of the latents' width."""
    images, labels = data.images, data.labels
    assert labels is not None
    if not data.controls and data.train_images is not None and data.train_labels is not None:
        train = {"latents": in_batches(encode, data.train_images, cfg.batch_size)}
        test = {"latents": latents}
        return measure_probes(train, data.train_labels, test, labels, stamp=stamp, cfg=cfg)
    if data.train_images is not None:
        if data.train_labels is None:
            raise UserError("train_images come without train_labels; give both or neither.")
        return measure_probes(
            {"latents": in_batches(encode, data.train_images, cfg.batch_size),
             "pixels": data.train_images},
            data.train_labels,
            {"latents": latents, "pixels": images},
            labels,
            stamp=stamp,
            cfg=cfg,
        )  # fmt: skip
    half = len(images) // 2
    split = replace(stamp, detail={**stamp.detail, "probe_train": "first half of the same data"})
    return measure_probes(
        {"latents": latents[:half], "pixels": images[:half]},
        labels[:half],
        {"latents": latents[half:], "pixels": images[half:]},
        labels[half:],
        stamp=split,
        cfg=cfg,
    )
