"""The latent card of an autoencoder on a dataset: `latent_card` fed from the library's parts."""

from typing import Any

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.data.base import Dataset
from latentsmith.encoders.pixel_pca import PixelPCA
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.errors import UserError
from latentsmith.losses.perceptual import LPIPS, Net, load_lpips
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import CardConfig, LatentCard
from latentsmith.metrics.latent_card import CardData, latent_card


def measure_autoencoder(
    autoencoder: Autoencoder,
    val: Dataset,
    spaces: ReferenceSpaces,
    *,
    probe: Dataset | None = None,
    controls: bool = True,
    lpips: LPIPS | None = None,
    cfg: CardConfig | None = None,
    ema: bool | None = None,
    detail: dict[str, Any] | None = None,
) -> LatentCard:
    """Every Stage A and Stage B number of one autoencoder (spec/1-mm-reg.md).

    Args:
        autoencoder: trained, on the spaces' device; latents are posterior means.
        val: held-out images that are measured, all of them (a few thousand).
        spaces: reference spaces; those of networks also serve as feature spaces.
        probe: labelled training images for the linear probe; None or unlabelled: see `CardData`.
        controls: also probe raw pixels and their PCA, the same for every autoencoder.
        lpips: as a metric; None leaves it out.
        ema, detail: for the stamps.
    """
    cfg, device = cfg or CardConfig(), spaces.team.device
    autoencoder.eval()
    return latent_card(
        lambda images: autoencoder.encode(images.to(device)).mode(),
        lambda latents: autoencoder.decode(latents.to(device)).clamp(0, 1),
        _card_data(val, probe, spaces, controls),
        _feature_spaces(spaces),
        stamp=Stamp(
            data=val.name,
            count=len(val),
            seed=cfg.seed,
            ema=ema,
            detail={
                **(detail or {}),
                "transform": spaces.transform.fingerprint(),
                "references": spaces.describe(),
            },
        ),
        distance=None if lpips is None else (f"lpips_{lpips.net}", lpips.to(device)),
        cfg=cfg,
    )


def _card_data(
    val: Dataset, probe: Dataset | None, spaces: ReferenceSpaces, controls: bool
) -> CardData:
    """Held-out images with their references; training images for the probe where labels exist."""
    held = _gather(val, spaces)
    train = _gather(probe, spaces) if probe is not None and "label" in held else {}
    rows = held["index"]  # unreadable images are missing from it
    return CardData(
        images=held["image"],
        references={name: vectors[rows] for name, vectors in spaces.vectors(val).items()},
        labels=held.get("label"),
        train_images=train.get("image"),
        train_labels=train.get("label"),
        features={
            e.name: spaces.raw_vectors(name, val)[rows]
            for name, e in spaces.encoders.items()
            if not isinstance(e, PixelPCA)
        },
        controls=controls,
    )


def _gather(dataset: Dataset, spaces: ReferenceSpaces) -> dict[str, Tensor]:
    """All images of a measured dataset at once."""
    batches = list(spaces.loader(dataset).epoch())
    keys = [key for key in ("index", "image", "label") if key in batches[0]]
    return {key: torch.cat([batch[key] for batch in batches]) for key in keys}


def _feature_spaces(spaces: ReferenceSpaces) -> dict[str, Any]:
    """Encoder name → images to features, for Fréchet distances and path lengths. Pixel PCA is
    left out: PSNR already measures pixels."""
    device = spaces.team.device
    encoders = {e.name: e for e in spaces.encoders.values() if not isinstance(e, PixelPCA)}
    return {name: lambda x, e=e: e.vector(x.to(device)) for name, e in encoders.items()}


def metric_lpips(net: Net, trunk: str | None, *, required: bool) -> LPIPS | None:
    """LPIPS when its weights are at hand, else None (reports say "not measured").

    Raises UserError when they are missing although ``required`` or a trunk was named.
    """
    try:
        return load_lpips(net, trunk=trunk)
    except UserError:
        if required or trunk is not None:
            raise
        return None
