"""Make a small pipeline where no published one fits: an autoencoder, then a text-conditional U-Net
on its latents, saved as diffusers lays a pipeline out."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.autoencoders.train import MODEL, lpips_of, train_autoencoder
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.config.run import Run
from latentsmith.data.splits import Splits
from latentsmith.diffusion.scheduler import save_scheduler
from latentsmith.recipes.urepa.config import UREPAConfig
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
    data = images.train.digest  # a sweep over data makes one for each
    place = run.place("autoencoder", identity | {"train": asdict(train), "data": data})
    result = train_autoencoder(
        AutoencoderTask(autoencoder, section.objective, lpips=lpips_of(section.objective)),
        images,
        cfg.transform.build(),
        train,
        place,
        team,
        identity=identity,
        latent=cfg.diffusion.latent,
    )
    return result.summary(place, model=place / MODEL)


def save_pipeline(network: SDUNet, autoencoder: KLAutoencoder, folder: Path) -> Path:
    """Write ``unet/``, ``scheduler/`` and ``vae/`` as diffusers lays them out."""
    assert network.config.path is not None
    with atomic_folder(folder) as tmp:
        network.unet.save_pretrained(tmp / "unet")
        save_scheduler(network.config.path, network.predicts, tmp / "scheduler")
        autoencoder.save_pretrained(tmp / "vae")
    log.info("saved the pipeline to %s", folder)
    return folder
