"""The interpolate recipe's one stage."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.autoencoders.kl import SCRATCH
from latentsmith.autoencoders.load import open_autoencoder
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.base import CorruptSample
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.loader import Loader
from latentsmith.data.subset import subset
from latentsmith.errors import UserError
from latentsmith.metrics.interpolation import path as path_of
from latentsmith.recipes.interpolate.config import InterpolateConfig
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.labels import labels_of
from latentsmith.sampling.noise import starting_noise
from latentsmith.training.grids import save_grid, save_images
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.files import write_json
from latentsmith.utils.seeding import generator as random

log = logging.getLogger(__name__)

Walk = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor], list[str]]
"""Starts and ends [P, C, h, w], what turns points [N, C, h, w] of paths [N] into images, and what
each path joins."""


def interpolate(cfg: InterpolateConfig, run: Run) -> None:
    """Write ``paths.png`` (a row for each path), ``images/<path>-<step>.png`` and ``paths.json``.

    Raises:
        UserError: models, data or image files that cannot be had, or several processes.
    """
    team = Team.join(several_objectives=False)
    if team.world_size > 1:
        raise UserError("interpolate runs in one process: start it without torchrun")
    if run.stage_done("paths"):
        return
    start, end, to_images, ends = walk_of(cfg, team.device)
    kind = cfg.path or ("lerp" if cfg.generator is None else "slerp")
    weights = torch.linspace(0, 1, cfg.steps).repeat(len(start))  # [P * steps], path by path
    of_path = torch.arange(len(start)).repeat_interleave(cfg.steps)
    points = path_of(kind)(start[of_path], end[of_path], weights)
    images = torch.cat(
        [
            to_images(z, paths)
            for z, paths in zip(
                points.split(cfg.batch_size), of_path.split(cfg.batch_size), strict=True
            )
        ]
    )
    names = [f"{p:03}-{s:03}" for p in range(len(start)) for s in range(cfg.steps)]
    save_images(images, run.path / "images", names)
    save_grid(images, run.path / "paths.png", columns=cfg.steps)
    write_json(run.path / "paths.json", {"settings": to_dict(cfg), "path": kind, "ends": ends})
    run.mark_done("paths", {"images": run.path / "images"})
    log.info("%d paths of %d images in %s", len(start), cfg.steps, run.path / "paths.png")


def walk_of(cfg: InterpolateConfig, device: torch.device | str = "cpu") -> Walk:
    """What is walked between. Raises UserError for what cannot be had."""
    if cfg.generator is not None:
        return _between_noises(cfg, cfg.generator, device)
    return _between_images(cfg, device)


@torch.no_grad()
def _between_images(cfg: InterpolateConfig, device: torch.device | str) -> Walk:
    autoencoder = open_autoencoder(cfg.autoencoder).to(device).eval()
    images, names = _files(cfg) if cfg.images else _held_out(cfg)
    parts = [autoencoder.encode(x.to(device)).mode().cpu() for x in images.split(cfg.batch_size)]
    latents = torch.cat(parts)

    def to_images(z: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            return autoencoder.decode(z.to(device)).clamp(0, 1).cpu()

    ends = [f"{a} to {b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    return latents[::2], latents[1::2], to_images, ends


def _files(cfg: InterpolateConfig) -> tuple[Tensor, list[str]]:
    """The given image files [2 P, C, R, R]. Raises UserError for one that cannot be read."""
    transform = cfg.transform.deterministic().build()
    mode: Mode = "gray" if cfg.transform.channels == 1 else "rgb"
    try:
        raw = [decode_image(file, mode, str(file)) for file in cfg.images]
    except CorruptSample as error:
        raise UserError(f"images: {error}") from error
    images = torch.cat([transform.batch(image[None], torch.empty(1, 0)) for image in raw])
    return images, [file.name for file in cfg.images]


def _held_out(cfg: InterpolateConfig) -> tuple[Tensor, list[str]]:
    """Random held-out images [2 P, C, R, R], the same for the same seed."""
    assert cfg.data is not None
    dataset = cfg.data.build("val", cache_root() / "data")
    wanted = 2 * cfg.pairs
    if len(dataset) < wanted:
        raise UserError(
            f"{cfg.pairs} pairs need {wanted} images, and {dataset.name} has {len(dataset)}: lower "
            "pairs"
        )
    rows = torch.randperm(len(dataset), generator=random(cfg.seed, "interpolated"))[:wanted]
    loader = Loader(
        subset(dataset, rows), cfg.transform.deterministic().build(),
        batch_size=cfg.batch_size, seed=0, shuffle=False, corrupt_budget=0,
    )  # fmt: skip
    images = torch.cat([batch["image"] for batch in loader.epoch()])
    return images, [f"{dataset.name}[{row}]" for row in rows.tolist()]


def _between_noises(cfg: InterpolateConfig, folder: Path, device: torch.device | str) -> Walk:
    given = cfg.autoencoder.source
    given = None if given == SCRATCH else given
    generator = LatentGenerator.load(folder, autoencoder=given, device=device)
    shape, paths = generator.backbone.latent_shape, torch.arange(cfg.pairs)
    start, end = (starting_noise(cfg.seed, 2 * paths + side, shape) for side in (0, 1))
    labels = labels_of(paths, cfg.labels, generator.info.classes)

    def to_images(z: Tensor, of_path: Tensor) -> Tensor:
        # by the path's number: along one path stochastic samplers add one noise
        latents = generator.sample_latents(
            of_path, noise=z, labels=None if labels is None else labels[of_path],
            sampler=cfg.sampler, guidance=cfg.guidance, seed=cfg.seed, batch_size=cfg.batch_size,
        )  # fmt: skip
        return generator.decode(latents, batch_size=cfg.batch_size)

    ends = [f"noise {2 * p} to {2 * p + 1} of seed {cfg.seed}" for p in paths.tolist()]
    return start, end, to_images, ends
