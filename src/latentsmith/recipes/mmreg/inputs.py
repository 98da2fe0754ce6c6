"""What the arms are trained and measured on."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.autoencoders.task import REFERENCE, TOKENS
from latentsmith.data.base import Dataset
from latentsmith.data.loader import Column, Loader
from latentsmith.data.splits import Splits
from latentsmith.data.subset import subset
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.losses.regularizer import RegularizerConfig
from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE, MMRegConfig
from latentsmith.training.config import TrainConfig
from latentsmith.training.team import Team

Losses = Mapping[str, RegularizerConfig]
"""Regularizers by name."""


def teachers(losses: Losses) -> list[str]:
    """References whose patch tokens are read."""
    return list(dict.fromkeys(name for loss in losses.values() for name in loss.teachers()))


class Inputs(Splits):
    """Datasets, reference spaces and loaders of one run; each is made when first asked for."""

    def __init__(self, cfg: MMRegConfig, team: Team):
        evaluate = cfg.evaluate
        super().__init__(cfg.data, count=evaluate.count, probe_count=evaluate.probe_count)
        self.cfg, self.team = cfg, team
        self.transform = cfg.transform.build()

    @cached_property
    def spaces(self) -> ReferenceSpaces:
        """The trained reference and those measured beside it."""
        return ReferenceSpaces(
            {TRAINED_REFERENCE: self.cfg.encoder, **self.cfg.more_references},
            self.cfg.transform,
            self.train,
            self.team,
            batch_size=self.cfg.evaluate.card.batch_size,
        )

    @property
    def online(self) -> bool:
        """Whether references must be computed on each augmented crop as training goes."""
        return not self.transform.deterministic

    def columns(self, dataset: Dataset, losses: Losses) -> dict[str, Column]:
        """The cached references that ``losses`` read, as columns of the batch: vectors in memory,
        patch tokens on disk. Computed where they are not cached yet."""
        columns: dict[str, Column] = dict(self._vectors(dataset, losses))
        if not self.online:
            for name in teachers(losses):
                columns[TOKENS + name] = self.spaces.tokens(name, dataset)
        return columns

    def _vectors(self, dataset: Dataset, losses: Losses) -> dict[str, Tensor]:
        if self.online or not any(loss.reads_vectors for loss in losses.values()):
            return {}
        vectors = self.spaces.vectors(dataset)
        return {REFERENCE + name: vectors[name] for name in self.cfg.terms}

    def training_loader(self, cfg: TrainConfig, losses: Losses) -> Loader:
        """Shuffled batches for the loop, with the columns that ``losses`` read."""
        return Loader(
            self.train,
            self.transform,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            rank=self.team.rank,
            world_size=self.team.world_size,
            columns=self.columns(self.train, losses),
        )

    def validation_batch(self, size: int, losses: Losses) -> dict[str, Any]:
        """One fixed held-out batch for validation during training: the first of the measured."""
        rows = torch.arange(min(size, len(self.val)))
        columns = self._vectors(self.val, losses)
        loader = Loader(
            subset(self.val, rows), self.spaces.transform, batch_size=len(rows), seed=0,
            shuffle=False, columns={name: column[rows] for name, column in columns.items()},
        )  # fmt: skip
        batch = next(loader.epoch())
        if not self.online:  # one batch is not worth a store
            images = batch["image"].to(self.team.device)
            for name in teachers(losses):
                batch[TOKENS + name] = self.spaces.locate_tokens(name, images).cpu()
        return batch
