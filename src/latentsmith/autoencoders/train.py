"""Training an autoencoder on one run's images, until it lies measured in a folder."""

from pathlib import Path
from typing import Any

import torch

from latentsmith.autoencoders.field.task import FieldTask
from latentsmith.autoencoders.normalizer import Latent
from latentsmith.autoencoders.objective import ObjectiveConfig
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.data.loader import Loader
from latentsmith.data.splits import Splits
from latentsmith.data.subset import subset
from latentsmith.data.transforms import Transform
from latentsmith.losses.perceptual import LPIPS, load_lpips
from latentsmith.training.config import TrainConfig
from latentsmith.training.loop import FitResult, fit
from latentsmith.training.team import Team

MODEL = "model"
"""Folder of the saved autoencoder below its training's."""


def train_autoencoder(
    task: AutoencoderTask | FieldTask,
    images: Splits,
    transform: Transform,
    train: TrainConfig,
    place: Path,
    team: Team,
    *,
    identity: dict[str, Any],
    latent: Latent = "mode",
) -> FitResult:
    """Train ``task.autoencoder`` on the training images and save it as ``place/model``, with its
    latents measured on the probe images.

    Args:
        identity: what the training depends on besides data and ``train``; see `fit`.
        latent: which latent a generator will see.
    """
    batches = Loader(
        images.train,
        transform,
        batch_size=train.batch_size,
        seed=train.seed,
        rank=team.rank,
        world_size=team.world_size,
    )
    few = subset(images.val, torch.arange(min(train.batch_size, len(images.val))))
    val = next(Loader(few, transform, batch_size=len(few), seed=0, shuffle=False).epoch())
    result = fit(task, batches, train, place, val_batch=val, identity=identity)

    def save() -> None:
        measured = Loader(images.probe, transform, batch_size=64, seed=0, shuffle=False)
        autoencoder = task.autoencoder.to(team.device)
        with result.averaged():
            autoencoder.measure_normalizer((b["image"] for b in measured.epoch()), latent=latent)
            autoencoder.save_pretrained(place / MODEL)

    team.on_main(save)
    return result


def lpips_of(objective: ObjectiveConfig) -> LPIPS | None:
    """The network of the perceptual term, where it has weight. Raises UserError when its weights
    are not at hand."""
    perceptual = objective.perceptual
    return load_lpips(perceptual.net, trunk=perceptual.trunk) if perceptual.weight > 0 else None
