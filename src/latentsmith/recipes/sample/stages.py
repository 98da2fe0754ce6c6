"""The sample recipe's one stage."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.errors import UserError
from latentsmith.recipes.sample.config import SampleConfig
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.labels import labels_of
from latentsmith.training.grids import save_grid, save_images
from latentsmith.training.team import Team
from latentsmith.utils.counter import Counter
from latentsmith.utils.files import write_json

log = logging.getLogger(__name__)

SHOWN = 256
"""Images in the grid at most."""


def sample(cfg: SampleConfig, run: Run) -> None:
    """Write ``images/<number>.png``, ``samples.png`` (a grid) and ``samples.json``: what made
    them, and each image's class.

    Raises:
        UserError: no generator there, another autoencoder than its own, unknown classes, or several
            processes.
    """
    team = Team.join(several_objectives=False)
    if team.world_size > 1:
        raise UserError(
            "sample runs in one process. Share the work by first= and count=: image number i is "
            "the same wherever it is made"
        )
    if run.stage_done("samples"):
        return
    generator = load(cfg, team.device)
    numbers = torch.arange(cfg.first, cfg.first + cfg.count)
    labels = labels_of(numbers, cfg.labels, generator.info.classes)
    images = make(cfg, generator, numbers, labels)
    names = [f"{number:06}" for number in numbers.tolist()]
    save_images(images, run.path / "images", names)
    save_grid(images[:SHOWN], run.path / "samples.png")
    classes = [None] * len(numbers) if labels is None else labels.tolist()
    record = {
        "generator": generator.info.to_json(),
        "settings": to_dict(cfg),
        "images": [{"file": f"{n}.png", "class": c} for n, c in zip(names, classes, strict=True)],
    }
    write_json(run.path / "samples.json", record)
    run.mark_done("samples", {"images": run.path / "images", "count": cfg.count})
    log.info("%d images in %s", cfg.count, run.path / "images")
    log.info("a grid in %s", run.path / "samples.png")


def load(cfg: SampleConfig, device: torch.device | str = "cpu") -> LatentGenerator:
    """The generator with its autoencoder. Raises UserError, see `LatentGenerator.load`."""
    return LatentGenerator.load(cfg.generator, autoencoder=cfg.autoencoder, device=device)


def make(
    cfg: SampleConfig, generator: LatentGenerator, numbers: Tensor, labels: Tensor | None
) -> Tensor:
    """Images [N, C, H, W] in [0, 1] of the given numbers, with progress."""
    how: dict[str, Any] = {"sampler": cfg.sampler, "guidance": cfg.guidance, "seed": cfg.seed}
    if cfg.weak is not None:
        how["weak"] = _weak(generator, cfg.weak)
    parts = []
    with Counter("sampling", len(numbers)) as count:
        for rows in torch.arange(len(numbers)).split(cfg.batch_size):
            some = None if labels is None else labels[rows]
            parts.append(
                generator.sample(numbers[rows], labels=some, batch_size=cfg.batch_size, **how)
            )
            count(int(rows[-1]) + 1)
    return torch.cat(parts)


def _weak(generator: LatentGenerator, folder: Path) -> Denoiser:
    """The weaker generator of the same latents. Raises UserError when of others."""
    weak = LatentGenerator.load(folder, autoencoder=generator.autoencoder, device=generator.device)
    return Denoiser(weak.backbone, weak.path)
