"""The edit recipe's one stage."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.run import Run
from latentsmith.config.saved import to_dict
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.recipes.edit.config import EditConfig
from latentsmith.recipes.edit.images import Source, image_files, read_mask, read_source, stacked
from latentsmith.sampling.edit import check_edits, edit
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.inpaint import inpaint
from latentsmith.sampling.labels import labels_of
from latentsmith.sampling.variation import variation
from latentsmith.training.grids import save_grid, write_images
from latentsmith.training.team import Team
from latentsmith.utils.counter import Counter
from latentsmith.utils.digest import json_digest, state_digest
from latentsmith.utils.files import atomic_folder, write_json

log = logging.getLogger(__name__)

SHOWN = 256
"""Images in the grid at most."""


def change(cfg: EditConfig, run: Run) -> None:
    """Write ``images/<image>-<number>.png``, ``sources/<image>.png`` (what the generator saw),
    ``edits.png`` (a row for each image: it, then its results) and ``edits.json``: what made them.
    Made again only when the generator or an image at its place has become another.

    Raises:
        UserError: generator, images or mask that cannot be had or do not fit, or several processes.
    """
    team = Team.join(several_objectives=False)
    if team.world_size > 1:
        raise UserError(f"{cfg.task} runs in one process: start it without torchrun")
    job = Job.of(cfg, team.device)
    digest = job.digest()
    if run.stage_done("edits") and run.summary("edits").get("digest") == digest:
        return
    columns, shown = 1 + job.each, list[Tensor]()
    rows = max(1, SHOWN // columns)
    names = job.names()
    with (
        atomic_folder(run.path / "sources") as sources,
        atomic_folder(run.path / "images") as results,
        Counter(cfg.task, job.count) as count,
    ):
        write_images(stacked(job.sources), sources, [f"{i:03}" for i in range(len(job.sources))])
        for part in torch.arange(job.count).split(cfg.batch_size):
            images = job.results(part)
            write_images(images, results, [names[row] for row in part.tolist()])
            shown += images[: rows * job.each - len(shown)]
            count(int(part[-1]) + 1)
    _save_grid(job, shown, run)
    write_json(run.path / "edits.json", job.record(names))
    run.mark_done("edits", {"images": run.path / "images", "digest": digest})
    log.info("%d results in %s", job.count, run.path / "images")
    log.info("beside their sources in %s", run.path / "edits.png")


def _save_grid(job: "Job", shown: list[Tensor], run: Run) -> None:
    """The source first, then its results, image by image."""
    columns = 1 + job.each
    cells = []
    for number, source in enumerate(job.sources[: max(1, SHOWN // columns)]):
        cells += [source.image, *shown[number * job.each : (number + 1) * job.each]]
    save_grid(torch.stack(cells), run.path / "edits.png", columns=columns)


@dataclass
class Job:
    """What is to be done: every text on every image, ``cfg.count`` times.

    Results are numbered image by image, of each text by text.

    Attributes:
        said: what texts or classes say [T, …] by name; None where the verb is told nothing.
        masks: bool [1, 1, R, R] of task=inpaint.
    """

    cfg: EditConfig
    generator: LatentGenerator
    sources: list[Source]
    said: Condition | None
    masks: Tensor | None

    @classmethod
    def of(cls, cfg: EditConfig, device: torch.device | str = "cpu") -> "Job":
        """Load and read everything. Raises UserError for what cannot be had or does not fit."""
        generator = LatentGenerator.load(cfg.generator, autoencoder=cfg.autoencoder, device=device)
        if cfg.task == "edit":
            check_edits(generator)
        assert generator.autoencoder is not None
        transform = TransformConfig(
            resolution=generator.resolution,
            crop=cfg.crop,
            channels=1 if generator.autoencoder.channels == 1 else 3,
        )
        sources = [read_source(file, transform) for file in image_files(cfg.images)]
        masks = None if cfg.mask is None else read_mask(cfg.mask, sources, transform)
        return cls(cfg, generator, sources, _said(cfg, generator), masks)

    @property
    def each(self) -> int:
        """Results of one image."""
        return max(1, len(self.cfg.prompts) + len(self.cfg.labels)) * self.cfg.count

    @property
    def count(self) -> int:
        """Results in all."""
        return len(self.sources) * self.each

    def digest(self) -> str:
        """Of all that may be another without a setting that says so: weights, images, mask."""
        seen = {"images": stacked(self.sources)}
        if self.masks is not None:
            seen["masks"] = self.masks
        return json_digest([state_digest(self.generator.backbone.state_dict()), state_digest(seen)])

    def names(self) -> list[str]:
        """What results are called, without ``.png``."""
        return [f"{row // self.each:03}-{row % self.each:02}" for row in range(self.count)]

    def results(self, rows: Tensor) -> Tensor:
        """Images [B, C, R, R] of results int64 [B]."""
        cfg = self.cfg
        texts = (rows % self.each) // cfg.count
        how: dict[str, Any] = {
            "sampler": cfg.sampler,
            "guidance": cfg.guidance,
            "seed": cfg.seed,
            "indices": rows % cfg.count,
            "batch_size": cfg.batch_size,
        }
        if cfg.task == "edit":
            work = partial(edit, instructions=[cfg.prompts[n] for n in texts.tolist()])
        else:
            how["condition"] = self.said and {name: v[texts] for name, v in self.said.items()}
            work = partial(variation, strength=cfg.strength)
        if cfg.task == "inpaint":
            repair = {"rounds": cfg.rounds, "back_to": cfg.back_to, "paste": cfg.paste}
            work = partial(inpaint, masks=self.masks, **repair)
        images = stacked([self.sources[n] for n in (rows // self.each).tolist()])
        return work(self.generator, images, **how)

    def record(self, names: list[str]) -> dict[str, Any]:
        """``edits.json``."""
        cfg, each = self.cfg, self.each
        told = "prompt" if cfg.prompts else "class"
        words = [*cfg.prompts, *cfg.labels] or [None]

        def result(row: int) -> dict[str, Any]:
            number = {"number": row % cfg.count}
            return {"file": f"{names[row]}.png", told: words[row % each // cfg.count]} | number

        images = [
            {
                "source": str(source.file),
                "results": [result(n * each + k) for k in range(each)],
            }
            for n, source in enumerate(self.sources)
        ]
        generator = self.generator.info.to_json()
        return {"generator": generator, "settings": to_dict(cfg), "images": images}


def _said(cfg: EditConfig, generator: LatentGenerator) -> Condition | None:
    if cfg.labels:
        numbers = torch.arange(len(cfg.labels))
        return generator.of_labels(labels_of(numbers, cfg.labels, generator.info.classes))
    if cfg.prompts and cfg.task != "edit":
        return generator.prompt(cfg.prompts)
    return None
