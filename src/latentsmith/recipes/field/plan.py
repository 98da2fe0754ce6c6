"""What a run would cost: the same networks and tasks as the stages', without data.

How many points are given and asked is drawn for each batch: memory is that of the most, FLOPs and
time are those of the mean, as if all work were in proportion to points.
"""

import math
from dataclasses import replace
from functools import partial

import torch

from latentsmith.autoencoders.field.flow import FieldFlowConfig
from latentsmith.autoencoders.field.flow_task import FieldFlowTask
from latentsmith.autoencoders.field.model import FieldAutoencoder, FieldAutoencoderConfig
from latentsmith.autoencoders.field.task import FieldTask
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.data.fields import FieldBatch
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.planning.data import training_rows
from latentsmith.planning.stage import RecipePlan, Store, Training
from latentsmith.recipes.field.config import FieldConfig, Flow
from latentsmith.stores.base import FieldSpec
from latentsmith.training.task import Batch, Task


def plan(cfg: FieldConfig) -> RecipePlan:
    """Stages that train, and the store of codes. Raises UserError for settings that do not fit."""
    parts = _Parts(cfg)
    (few, most), (fewest, asked) = cfg.sampling.inputs, cfg.sampling.queries
    return RecipePlan(
        trainings=parts.trainings(),
        stores=[
            Store("codes", {"latent": FieldSpec(parts.shape, "float16")}, training_rows(cfg.data))
        ],
        facts={
            "images": f"{cfg.data.kind}, {cfg.transform.channels}x{cfg.transform.resolution}²",
            "points": f"{few}-{most} given of {cfg.field.lattice}², {fewest}-{asked} asked",
            "code": "x".join(map(str, parts.shape)),
        },
    )


class _Parts:
    """Networks, tasks and batches of one run."""

    def __init__(self, cfg: FieldConfig):
        self.cfg = cfg
        self.shape = cfg.field.build().latent_shape(cfg.transform.resolution)
        spans = cfg.sampling.inputs, cfg.sampling.queries
        self.share = sum(_mean(*span) / span[1] for span in spans) / 2

    def trainings(self) -> list[Training]:
        """The autoencoder with each decoder, the flow of codes, those of values."""
        cfg = self.cfg
        main = {"autoencoder": cfg.field.decoder}
        arms = main | {f"autoencoder-{name}": decoder for name, decoder in cfg.compare.items()}
        parts = {"encoder": "autoencoder.encoder", "decoder": "autoencoder.decoder"}
        found = [
            Training(name, cfg.train, "train",
                     partial(self.autoencoder_task, replace(cfg.field, decoder=decoder)),
                     self.images, parts, share=self.share)
            for name, decoder in arms.items()
        ]  # fmt: skip
        found.append(
            Training("latent", cfg.latent.train, "latent.train", self.latent_task, self.codes,
                     {"network": "backbone"})
        )  # fmt: skip
        return found + [
            Training(name, cfg.flows.train, "flows.train",
                     partial(self.flow_task, getattr(cfg.flows, name)), self.images,
                     {"decoder": "flow"} | self._told(name), share=self.share)
            for name in cfg.flows.make
        ]  # fmt: skip

    def _told(self, flow: Flow) -> dict[str, str]:
        coded = getattr(self.cfg.flows, flow).told == "code"
        return {"frozen encoder": "autoencoder"} if coded else {}

    def autoencoder(self) -> FieldAutoencoder:
        """Small enough to be made."""
        return self.cfg.field.build()

    def autoencoder_task(self, config: FieldAutoencoderConfig) -> Task:
        """Phase 1."""
        return FieldTask(config.build(), self.draw, self.cfg.compared)

    def latent_task(self) -> Task:
        """Phase 2 on the code."""
        c = self.cfg.latent
        normalizer = replace(LatentNormalizer.identity(self.shape[0]), stated=True)
        return DiffusionTask(c.backbone.build(self.shape, None), c.diffusion, normalizer)

    def flow_task(self, config: FieldFlowConfig) -> Task:
        """A flow of values."""
        coded = config.told == "code"
        autoencoder = self.autoencoder() if coded else None
        return FieldFlowTask(config.build(self.cfg.field), self.draw, autoencoder=autoencoder)

    def draw(self, batch: Batch, generator: torch.Generator) -> FieldBatch:
        """The most points that are given and asked."""
        n, s, c = len(batch["image"]), self.cfg.sampling, self.cfg.field.channels
        known, asked = min(s.inputs[1], s.resolution**2), s.queries[1]
        return FieldBatch(
            torch.empty(n, known, 2), torch.empty(n, known, c),
            torch.empty(n, asked, 2), torch.empty(n, asked, c), on_lattice=asked // 2,
        )  # fmt: skip

    def images(self, n: int) -> Batch:
        """Images [n, C, H, W]."""
        side = self.cfg.transform.resolution
        image = torch.empty(n, self.cfg.transform.channels, side, side)
        return {"index": torch.arange(n), "image": image}

    def codes(self, n: int) -> Batch:
        """What the store of codes gives."""
        return {
            "index": torch.arange(n),
            "latent": torch.empty(n, *self.shape, dtype=torch.float16),
        }


def _mean(low: int, high: int) -> float:
    """Of a number whose logarithm is uniform."""
    return (high - low) / math.log(high / low) if high > low else float(high)
