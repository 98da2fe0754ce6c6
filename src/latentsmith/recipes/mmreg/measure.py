"""Stage A and B measurements of one arm."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.data.base import Dataset
from latentsmith.encoders.pixel_pca import PixelPCA
from latentsmith.errors import UserError
from latentsmith.losses.perceptual import LPIPS, load_lpips
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.card_file import save_card
from latentsmith.metrics.latent_card import CardData, latent_card
from latentsmith.recipes.mmreg.config import PerceptualConfig
from latentsmith.recipes.mmreg.inputs import Inputs


def measure_arm(arm: str, autoencoder: KLAutoencoder, inputs: Inputs, path: Path) -> LatentCard:
    """The latent card of one arm, written beside ``path`` (see `save_card`).

    Args:
        arm: for the stamps.
        autoencoder: trained, on the process's device.
        inputs: held-out images and reference spaces.
    """
    cfg, device = inputs.cfg, inputs.team.device
    autoencoder.eval()
    card = latent_card(
        lambda images: autoencoder.encode(images.to(device)).mode(),
        lambda latents: autoencoder.decode(latents.to(device)).clamp(0, 1),
        _card_data(inputs),
        _feature_spaces(inputs),
        stamp=Stamp(
            data=inputs.val.name,
            count=len(inputs.val),
            seed=cfg.evaluate.card.seed,
            ema=cfg.finetune.ema is not None,
            detail={"arm": arm, "transform": inputs.fixed_transform.fingerprint()},
        ),
        distance=_lpips_distance(cfg.objective.perceptual, device),
        cfg=cfg.evaluate.card,
    )
    save_card(card, path)
    return card


def _card_data(inputs: Inputs) -> CardData:
    """Held-out images with their references; training images for the probe where labels exist."""
    val = _gather(inputs, inputs.val)
    train = _gather(inputs, inputs.probe) if "label" in val else {}
    rows = val["index"]  # unreadable images are missing from it
    return CardData(
        images=val["image"],
        references={name: v[rows] for name, v in inputs.references(inputs.val).items()},
        labels=val.get("label"),
        train_images=train.get("image"),
        train_labels=train.get("label"),
    )


def _gather(inputs: Inputs, dataset: Dataset) -> dict[str, Tensor]:
    """All images of a measured dataset at once: a few thousand, by `EvaluateConfig`."""
    batches = list(inputs.fixed_loader(dataset).epoch())
    keys = [key for key in ("index", "image", "label") if key in batches[0]]
    return {key: torch.cat([batch[key] for batch in batches]) for key in keys}


def _feature_spaces(inputs: Inputs) -> dict[str, Any]:
    """Encoder name → images to features, for Fréchet distances and path lengths. Pixel PCA is
    left out: PSNR already measures pixels."""
    device = inputs.team.device
    encoders = {e.name: e for e in inputs.encoders.values() if not isinstance(e, PixelPCA)}
    return {name: lambda x, e=e: e.vector(x.to(device)) for name, e in encoders.items()}


def _lpips_distance(cfg: PerceptualConfig, device: torch.device) -> tuple[str, LPIPS] | None:
    """LPIPS as a metric, when its weights are at hand; asked for and missing is an error."""
    try:
        lpips = load_lpips(cfg.net, trunk=cfg.trunk).to(device)
    except UserError:
        if cfg.weight > 0 or cfg.trunk is not None:
            raise
        return None  # the report lists LPIPS as not measured
    return (f"lpips_{cfg.net}", lpips)
