"""The interpolate recipe's one stage."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from latentsmith.metrics.interpolation import Path
from latentsmith.metrics.interpolation import path as path_of
from latentsmith.recipes.interpolate.config import InterpolateConfig
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.noise import starting_noise
from latentsmith.sampling.prompts import between
from latentsmith.sampling.wanted import Wanted
from latentsmith.training.grids import save_grid, save_images
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.digest import json_digest, state_digest
from latentsmith.utils.files import write_json
from latentsmith.utils.seeding import generator as random

log = logging.getLogger(__name__)


@dataclass
class Walk:
    """P paths.

    Attributes:
        path: lerp or slerp.
        ends: what each joins [P].
        digest: of all that may be another without a setting that says so: weights, images.
        images: of which path [N], how far along it in [0, 1] [N] → images [N, C, H, W] in [0, 1].
    """

    path: Path
    ends: list[str]
    digest: str
    images: Callable[[Tensor, Tensor], Tensor]


def interpolate(cfg: InterpolateConfig, run: Run) -> None:
    """Write ``paths.png`` (a row for each path), ``images/<path>-<step>.png`` and ``paths.json``.
    Made again only when the model or an image at its place has become another.

    Raises:
        UserError: models, data or image files that cannot be had, or several processes.
    """
    team = Team.join(several_objectives=False)
    if team.world_size > 1:
        raise UserError("interpolate runs in one process: start it without torchrun")
    walk = walk_of(cfg, team.device)
    if run.stage_done("paths") and run.summary("paths").get("digest") == walk.digest:
        return
    count = len(walk.ends)
    of_path = torch.arange(count).repeat_interleave(cfg.steps)  # [P * steps], path by path
    weights = torch.linspace(0, 1, cfg.steps).repeat(count)
    parts = zip(of_path.split(cfg.batch_size), weights.split(cfg.batch_size), strict=True)
    images = torch.cat([walk.images(paths, along) for paths, along in parts])
    names = [f"{p:03}-{s:03}" for p in range(count) for s in range(cfg.steps)]
    save_images(images, run.path / "images", names)
    save_grid(images, run.path / "paths.png", columns=cfg.steps)
    record = {"settings": to_dict(cfg), "path": walk.path, "ends": walk.ends}
    write_json(run.path / "paths.json", record)
    run.mark_done("paths", {"images": run.path / "images", "digest": walk.digest})
    log.info("%d paths of %d images in %s", count, cfg.steps, run.path / "paths.png")


def walk_of(cfg: InterpolateConfig, device: torch.device | str = "cpu") -> Walk:
    """What is walked between. Raises UserError for what cannot be had."""
    if cfg.generator is None:
        return _between_images(cfg, device)
    given = None if cfg.autoencoder.source == SCRATCH else cfg.autoencoder.source
    generator = LatentGenerator.load(cfg.generator, autoencoder=given, device=device)
    return (_between_prompts if len(cfg.prompts) > 1 else _between_noises)(cfg, generator)


@torch.no_grad()
def _between_images(cfg: InterpolateConfig, device: torch.device | str) -> Walk:
    autoencoder = open_autoencoder(cfg.autoencoder).to(device).eval()
    images, names = _files(cfg) if cfg.images else _held_out(cfg)
    parts = [autoencoder.encode(x.to(device)).mode().cpu() for x in images.split(cfg.batch_size)]
    latents = torch.cat(parts)
    path = cfg.path or "lerp"
    move = path_of(path)

    def images_at(of_path: Tensor, along: Tensor) -> Tensor:
        z = move(latents[2 * of_path], latents[2 * of_path + 1], along)
        with torch.no_grad():
            return autoencoder.decode(z.to(device)).clamp(0, 1).cpu()

    digest = json_digest([autoencoder.digest(), state_digest({"images": images})])
    return Walk(path, _joined(names), digest, images_at)


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


def _between_noises(cfg: InterpolateConfig, generator: LatentGenerator) -> Walk:
    paths = torch.arange(cfg.pairs)
    wanted = Wanted.of(generator, paths, prompts=cfg.prompts, labels=cfg.labels)
    shape = generator.backbone.latent_shape
    start, end = (starting_noise(cfg.seed, 2 * paths + side, shape) for side in (0, 1))
    path = cfg.path or "slerp"
    move = path_of(path)

    def images_at(of_path: Tensor, along: Tensor) -> Tensor:
        noise = move(start[of_path], end[of_path], along)
        return _images(cfg, generator, of_path, noise=noise, **wanted.of_rows(of_path))

    ends = [f"noise {2 * p} to {2 * p + 1} of seed {cfg.seed}" for p in paths.tolist()]
    return Walk(path, ends, _weights(generator), images_at)


def _between_prompts(cfg: InterpolateConfig, generator: LatentGenerator) -> Walk:
    said = generator.prompt(cfg.prompts)

    def images_at(of_path: Tensor, along: Tensor) -> Tensor:
        start, end = ({name: v[2 * of_path + side] for name, v in said.items()} for side in (0, 1))
        return _images(cfg, generator, of_path, condition=between(start, end, along))

    return Walk("lerp", _joined(cfg.prompts), _weights(generator), images_at)


def _weights(generator: LatentGenerator) -> str:
    return state_digest(generator.backbone.state_dict())


def _images(
    cfg: InterpolateConfig, generator: LatentGenerator, of_path: Tensor, **given: Any
) -> Tensor:
    """One for each point of paths [N]. Noise is by the path's number: along one path stochastic
    samplers add the same."""
    latents = generator.sample_latents(
        of_path, sampler=cfg.sampler, guidance=cfg.guidance, seed=cfg.seed,
        batch_size=cfg.batch_size, **given,
    )  # fmt: skip
    return generator.decode(latents, batch_size=cfg.batch_size)


def _joined(names: list[str]) -> list[str]:
    """What paths join: the first and the second, the third and the fourth …"""
    return [f"{a} to {b}" for a, b in zip(names[::2], names[1::2], strict=True)]
