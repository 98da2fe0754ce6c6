"""What the arms are trained and measured on."""

import logging
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset, Split
from latentsmith.data.loader import Loader
from latentsmith.data.subset import draw, subset
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE, MMRegConfig
from latentsmith.recipes.mmreg.task import REFERENCE
from latentsmith.training.config import TrainConfig
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root

log = logging.getLogger(__name__)


class Inputs:
    """Datasets, reference spaces and loaders of one run; each is made when first asked for."""

    def __init__(self, cfg: MMRegConfig, team: Team):
        self.cfg, self.team = cfg, team
        self.transform = cfg.transform.build()

    @cached_property
    def train(self) -> Dataset:
        """Training images."""
        return self._open("train")

    @cached_property
    def val(self) -> Dataset:
        """The held-out images that are measured: at most ``evaluate.count`` of the split."""
        return draw(self._open("val"), self.cfg.evaluate.count)

    @cached_property
    def probe(self) -> Dataset:
        """The training images the linear probe learns from."""
        return draw(self.train, self.cfg.evaluate.probe_count)

    def _open(self, split: Split) -> Dataset:
        dataset = self.cfg.data.build(split, cache_root() / "data")
        if self.team.is_main:
            log.info("data: %s, %d images, from %s", dataset.name, len(dataset), dataset.origin)
        return dataset

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

    def _columns(self, dataset: Dataset, *, wanted: bool) -> dict[str, Tensor]:
        """The loss's cached references as columns of the batch."""
        if not wanted or self.online:
            return {}
        vectors = self.spaces.vectors(dataset)
        return {REFERENCE + name: vectors[name] for name in self.cfg.terms}

    def training_loader(self, cfg: TrainConfig, *, with_references: bool) -> Loader:
        """Shuffled batches for the loop, with ``reference/<name>`` columns where asked for."""
        return Loader(
            self.train,
            self.transform,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            rank=self.team.rank,
            world_size=self.team.world_size,
            columns=self._columns(self.train, wanted=with_references),
        )

    def validation_batch(self, size: int, *, with_references: bool) -> dict[str, Any]:
        """One fixed held-out batch for validation during training: the first of the measured."""
        rows = torch.arange(min(size, len(self.val)))
        columns = self._columns(self.val, wanted=with_references)
        loader = Loader(
            subset(self.val, rows), self.spaces.transform, batch_size=len(rows), seed=0,
            shuffle=False, columns={name: column[rows] for name, column in columns.items()},
        )  # fmt: skip
        return next(loader.epoch())
