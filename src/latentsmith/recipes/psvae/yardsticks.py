"""What every arm is measured against: the frozen encoder, real features, a judge of attributes."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.shapes.config import ShapesDataset
from latentsmith.data.subset import Subset
from latentsmith.encoders.base import Encoder
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.shapes_judge.config import JudgeConfig
from latentsmith.metrics.shapes_judge.judge import Judge
from latentsmith.recipes.psvae.config import PSVAEConfig
from latentsmith.recipes.psvae.inputs import Inputs
from latentsmith.sampling.clip_pairs import ClipPairs
from latentsmith.sampling.score import Spaces, reference_features
from latentsmith.stores.texts import captions
from latentsmith.training.team import Team


class Yardsticks:
    """Each is made when first asked for."""

    def __init__(self, cfg: PSVAEConfig, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team

    @cached_property
    def encoder(self) -> Encoder:
        """The vision encoder as published, frozen."""
        return self.cfg.autoencoder.encoder.build().to(self.team.device)

    def tokens(self, images: Tensor) -> Tensor:
        """The frozen encoder's tokens [B, N, d] of images [B, C, H, W] in [0, 1], on the CPU."""
        found = self.encoder(images.to(self.team.device)).tokens
        assert found is not None
        return found.cpu()

    @cached_property
    def spaces(self) -> Spaces:
        """The held-out images' vectors, for Fréchet distances."""
        rows = [self.encoder.vector(b["image"].to(self.team.device)).cpu() for b in self.held_out()]
        return [reference_features(self.encoder, torch.cat(rows))]

    @cached_property
    def bank(self) -> Tensor:
        """Real feature tokens of training images, [M, d]."""
        rows, count = [], 0
        for batch in self.batches(self.inputs.probe):
            rows.append(self.tokens(batch["image"]).flatten(0, 1))
            count += len(rows[-1])
            if count >= self.cfg.evaluate.bank:
                break
        return torch.cat(rows)[: self.cfg.evaluate.bank]

    @cached_property
    def probe(self) -> LatentCard:
        """What a linear probe reads off the frozen encoder's own features."""
        card, parts = LatentCard(), list[Tensor]()
        for images in (self.inputs.probe, self.inputs.val):
            rows = [(self.tokens(b["image"]).mean(1), b["label"]) for b in self.batches(images)]
            parts += [torch.cat(part) for part in zip(*rows, strict=True)]
        stamp = Stamp(data=self.inputs.val.name, count=len(parts[3]), detail={"of": "encoder"})
        resamples = self.cfg.evaluate.resamples
        card.add("linear_probe", *parts, stamp=stamp, label="encoder", resamples=resamples)
        return card

    @cached_property
    def shapes(self) -> tuple[ShapesDataset, Tensor] | None:
        """The captioned shapes behind the held-out images, and their rows; None for other data."""
        images, rows = self.inputs.val, torch.arange(len(self.inputs.val))
        if isinstance(images, Subset):
            images, rows = images.dataset, images.indices
        return (images, rows) if isinstance(images, ShapesDataset) else None

    def shown(self, numbers: Tensor) -> tuple[dict[str, Tensor], list[list[str]]]:
        """What held-out captioned shapes [n] show, and what their captions mention of it."""
        assert self.shapes is not None
        dataset, rows = self.shapes
        batch = dataset.gather(rows[numbers])
        return batch["factors"], batch["mentions"]

    @cached_property
    def judge(self) -> Judge | None:
        """A judge of attributes, for captioned shapes only."""
        if not self.cfg.evaluate.judge or self.shapes is None:
            return None
        return Judge.load_or_train(JudgeConfig(), self.cfg.transform.resolution)

    @cached_property
    def clip(self) -> ClipPairs | None:
        """Held-out captions and a CLIP model, where one was named."""
        source = self.cfg.evaluate.clip
        if source is None:
            return None
        told = captions(self.inputs.val)
        texts = [told.unique[row] for row in told.of_sample.tolist()]
        return ClipPairs(source, texts, self.team.device)

    def held_out(self) -> Iterator[dict[str, Any]]:
        """Every held-out image once, in order."""
        return self.batches(self.inputs.val)

    def batches(self, images: Dataset) -> Iterator[dict[str, Any]]:
        """Every image once, in order."""
        size = self.cfg.evaluate.batch_size
        return Loader(images, self.inputs.transform, batch_size=size, seed=0, shuffle=False).epoch()
