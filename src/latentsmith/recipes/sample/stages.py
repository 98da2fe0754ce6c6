"""The sample recipe's one stage."""

import logging
import math
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
from latentsmith.sampling.wanted import Wanted
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
    what made them, and each image's class and prompt; ``latents.safetensors`` where asked for. Made
    again only when the generator at its place has become another.

    Raises:
        UserError: no generator there, another autoencoder than its own, unknown classes, prompts
            for one that reads none, or several processes.
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
    wanted = wanted_of(cfg, generator)
    names = [f"{number:06}" for number in wanted.numbers.tolist()]
    shown, kept = [], []
    with atomic_folder(run.path / "images") as folder, Counter("sampling", cfg.count) as count:
        for rows, latents, images in make(cfg, generator, wanted):
            # written as they come: a data set's worth of images does not fit in memory
            write_images(images, folder, [names[row] for row in rows.tolist()])
            shown += images[: SHOWN - len(shown)]
            kept += [latents] if cfg.latents else []
            count(int(rows[-1]) + 1)
    columns = _columns(len(cfg.prompts), len(shown))
    save_grid(torch.stack(shown), run.path / "samples.png", columns=columns)
    if cfg.latents:
        with atomic_path(run.path / "latents.safetensors") as tmp:
            save_file({"latents": torch.cat(kept)}, tmp)
    record = {
        "generator": generator.info.to_json(),
        "settings": to_dict(cfg),
        "images": [
            {"file": f"{name}.png", "class": c, "prompt": prompt}
            for name, c, prompt in zip(names, *wanted.told(), strict=True)
        ],
    }
    write_json(run.path / "samples.json", record)
    run.mark_done("samples", {"images": run.path / "images", "weights": weights})
    log.info("%d images in %s", cfg.count, run.path / "images")
    log.info("a grid in %s", run.path / "samples.png")


def load(cfg: SampleConfig, device: torch.device | str = "cpu") -> LatentGenerator:
    """The generator with its autoencoder. Raises UserError, see `LatentGenerator.load`."""
    return LatentGenerator.load(cfg.generator, autoencoder=cfg.autoencoder, device=device)


def wanted_of(cfg: SampleConfig, generator: LatentGenerator) -> Wanted:
    """What the images are to show. Raises UserError for what the generator does not take."""
    numbers = torch.arange(cfg.first, cfg.first + cfg.count)
    return Wanted.of(generator, numbers, prompts=cfg.prompts, labels=cfg.labels)


def _columns(prompts: int, shown: int) -> int | None:
    """Of a grid of so many images: as square as it goes with one prompt in each column; None: the
    grid's own."""
    root = math.ceil(math.sqrt(shown))
    return None if not 1 < prompts <= 2 * root else prompts * max(1, root // prompts)


def make(
    cfg: SampleConfig, generator: LatentGenerator, wanted: Wanted
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(rows of ``wanted`` [B], raw latents [B, C, h, w], images [B, C, H, W] in [0, 1]), batch by
    batch."""
    how: dict[str, Any] = {"sampler": cfg.sampler, "guidance": cfg.guidance, "seed": cfg.seed}
    if cfg.weak is not None:
        how["weak"] = _weak(generator, cfg.weak)
    for rows in torch.arange(len(wanted.numbers)).split(cfg.batch_size):
        latents = generator.sample_latents(
            wanted.numbers[rows], **wanted.of_rows(rows), batch_size=cfg.batch_size, **how
        )
        yield rows, latents, generator.decode(latents, batch_size=cfg.batch_size)


def _weak(generator: LatentGenerator, folder: Path) -> Denoiser:
    """The weaker generator of the same latents. Raises UserError when of others."""
    weak = LatentGenerator.load(folder, autoencoder=generator.autoencoder, device=generator.device)
    return Denoiser(weak.backbone, weak.path)
