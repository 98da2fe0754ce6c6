"""The sample recipe's one stage."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.errors import UserError
from latentsmith.recipes.sample.config import SampleConfig
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.labels import labels_of
from latentsmith.training.grids import save_grid, write_images
from latentsmith.training.team import Team
from latentsmith.utils.counter import Counter
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import atomic_folder, atomic_path, write_json

log = logging.getLogger(__name__)

SHOWN = 256
"""Images in the grid at most."""


def sample(cfg: SampleConfig, run: Run) -> None:
    """Write ``images/<number>.png``, ``samples.png`` (a grid of the first) and ``samples.json``:
    what made them, and each image's class; ``latents.safetensors`` where asked for. Made again only
    when the generator at its place has become another.

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
    generator = load(cfg, team.device)
    weights = state_digest(generator.backbone.state_dict())
    if run.stage_done("samples") and run.summary("samples").get("weights") == weights:
        return
    numbers = torch.arange(cfg.first, cfg.first + cfg.count)
    labels = labels_of(numbers, cfg.labels, generator.info.classes)
    names = [f"{number:06}" for number in numbers.tolist()]
    shown, kept = [], []
    with atomic_folder(run.path / "images") as folder, Counter("sampling", cfg.count) as count:
        for rows, latents, images in make(cfg, generator, numbers, labels):
            # written as they come: a data set's worth of images does not fit in memory
            write_images(images, folder, [names[row] for row in rows.tolist()])
            shown += images[: SHOWN - len(shown)]
            kept += [latents] if cfg.latents else []
            count(int(rows[-1]) + 1)
    save_grid(torch.stack(shown), run.path / "samples.png")
    if cfg.latents:
        with atomic_path(run.path / "latents.safetensors") as tmp:
            save_file({"latents": torch.cat(kept)}, tmp)
    classes = [None] * len(numbers) if labels is None else labels.tolist()
    record = {
        "generator": generator.info.to_json(),
        "settings": to_dict(cfg),
        "images": [{"file": f"{n}.png", "class": c} for n, c in zip(names, classes, strict=True)],
    }
    write_json(run.path / "samples.json", record)
    run.mark_done("samples", {"images": run.path / "images", "weights": weights})
    log.info("%d images in %s", cfg.count, run.path / "images")
    log.info("a grid in %s", run.path / "samples.png")


def load(cfg: SampleConfig, device: torch.device | str = "cpu") -> LatentGenerator:
    """The generator with its autoencoder. Raises UserError, see `LatentGenerator.load`."""
    return LatentGenerator.load(cfg.generator, autoencoder=cfg.autoencoder, device=device)


def make(
    cfg: SampleConfig, generator: LatentGenerator, numbers: Tensor, labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(rows of ``numbers`` [B], raw latents [B, C, h, w], images [B, C, H, W] in [0, 1]), batch by
    batch."""
    how: dict[str, Any] = {"sampler": cfg.sampler, "guidance": cfg.guidance, "seed": cfg.seed}
    if cfg.weak is not None:
        how["weak"] = _weak(generator, cfg.weak)
    for rows in torch.arange(len(numbers)).split(cfg.batch_size):
        some = None if labels is None else labels[rows]
        latents = generator.sample_latents(
            numbers[rows], labels=some, batch_size=cfg.batch_size, **how
        )
        yield rows, latents, generator.decode(latents, batch_size=cfg.batch_size)


def _weak(generator: LatentGenerator, folder: Path) -> Denoiser:
    """The weaker generator of the same latents. Raises UserError when of others."""
    weak = LatentGenerator.load(folder, autoencoder=generator.autoencoder, device=generator.device)
    return Denoiser(weak.backbone, weak.path)
