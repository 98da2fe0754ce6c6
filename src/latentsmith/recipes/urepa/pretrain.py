"""Make a small pipeline where no published one fits: an autoencoder, then a text-conditional U-Net
on its latents, saved as diffusers lays a pipeline out."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.config.run import Run
from latentsmith.data.loader import Loader
from latentsmith.data.splits import Splits
from latentsmith.data.subset import subset
from latentsmith.diffusion.scheduler import save_scheduler
from latentsmith.losses.perceptual import load_lpips
from latentsmith.recipes.urepa.config import PretrainConfig, UREPAConfig
from latentsmith.training.loop import FitResult, fit
from latentsmith.training.team import Team
from latentsmith.utils.files import atomic_folder

log = logging.getLogger(__name__)


def pretrain_autoencoder(cfg: UREPAConfig, images: Splits, team: Team, run: Run) -> dict[str, Any]:
    """Train and save the autoencoder; the stage's summary."""
    assert cfg.pretrain is not None
    section, autoencoder = cfg.pretrain, cfg.autoencoder.build()
    train = section.autoencoder
    identity = {
        "start": autoencoder.digest(),
        "objective": asdict(section.objective),
    }
    place = run.place("autoencoder", identity | {"train": asdict(train)})
    transform = cfg.transform.build()
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
    result = fit(
        _task(section, autoencoder), batches, train, place, val_batch=val, identity=identity
    )

    def save() -> None:
        measured = Loader(images.probe, transform, batch_size=64, seed=0, shuffle=False)
        found = (batch["image"] for batch in measured.epoch())
        autoencoder.to(team.device)
        autoencoder.measure_normalizer(found, latent=cfg.diffusion.latent)
        autoencoder.save_pretrained(place / "model")

    team.on_main(lambda: averaged(result, save))
    return summary(result, place, model=place / "model")


def _task(section: PretrainConfig, autoencoder: KLAutoencoder) -> AutoencoderTask:
    perceptual = section.objective.perceptual
    lpips = load_lpips(perceptual.net, trunk=perceptual.trunk) if perceptual.weight > 0 else None
    return AutoencoderTask(autoencoder, section.objective, lpips=lpips)


def save_pipeline(network: SDUNet, autoencoder: KLAutoencoder, folder: Path) -> Path:
    """Write ``unet/``, ``scheduler/`` and ``vae/`` as diffusers lays them out."""
    assert network.config.path is not None
    with atomic_folder(folder) as tmp:
        network.unet.save_pretrained(tmp / "unet")
        save_scheduler(network.config.path, network.predicts, tmp / "scheduler")
        autoencoder.save_pretrained(tmp / "vae")
    log.info("saved the pipeline to %s", folder)
    return folder


def averaged(result: FitResult, work: Any) -> None:
    """Do ``work`` with the averaged weights in place, where there are such."""
    if result.ema is None:
        work()
        return
    with result.ema.swapped_in():
        work()


def summary(result: FitResult, place: Path, **more: Any) -> dict[str, Any]:
    """What a training stage leaves for later stages and the report."""
    return {
        "training": place,
        "samples": result.samples,
        "seconds": round(result.seconds, 1),
        "ema": result.ema is not None,
        "parts": result.last,
        **more,
    }
