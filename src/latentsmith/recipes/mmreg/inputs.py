"""What the arms are trained and measured on: images, and their places in every reference space."""

import logging
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset, Split
from latentsmith.data.loader import Loader
from latentsmith.data.subset import subset
from latentsmith.encoders.base import Encoder
from latentsmith.encoders.cache import reference_vectors
from latentsmith.encoders.pixel_pca import PixelPCA
from latentsmith.recipes.mmreg.config import TRAINED_REFERENCE, MMRegConfig
from latentsmith.recipes.mmreg.task import REFERENCE
from latentsmith.training.config import TrainConfig
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.counter import Counter
from latentsmith.utils.seeding import generator

log = logging.getLogger(__name__)


class Inputs:
    """Datasets, reference encoders and cached vectors of one run; each is made when first asked
    for, and vectors come from the cache of earlier runs where they fit."""

    def __init__(self, cfg: MMRegConfig, team: Team):
        self.cfg, self.team = cfg, team
        self.transform = cfg.transform.build()
        # Measuring needs one fixed view of each image, whatever training does.
        self.fixed_transform = cfg.transform.fixed().build()

    @cached_property
    def train(self) -> Dataset:
        """Training images."""
        return self._open("train")

    @cached_property
    def val(self) -> Dataset:
        """The held-out images that are measured: at most ``evaluate.count`` of the split."""
        return _draw(self._open("val"), self.cfg.evaluate.count)

    @cached_property
    def probe(self) -> Dataset:
        """The training images the linear probe learns from."""
        return _draw(self.train, self.cfg.evaluate.probe_count)

    def _open(self, split: Split) -> Dataset:
        dataset = self.cfg.data.build(split, cache_root() / "data")
        if self.team.is_main:
            log.info("data: %s, %d images, from %s", dataset.name, len(dataset), dataset.origin)
        return dataset

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """Reference name → frozen encoder, on this process's device, fitted."""
        configs = {TRAINED_REFERENCE: self.cfg.encoder, **self.cfg.more_references}
        encoders = {name: config.build() for name, config in configs.items()}
        for encoder in encoders.values():
            if isinstance(encoder, PixelPCA) and encoder.needs_fit:
                encoder.fit(batch["image"] for batch in self.fixed_loader(self.train).epoch())
            encoder.to(self.team.device)
        return encoders

    def fixed_loader(self, dataset: Dataset) -> Loader:
        """Every image once, in dataset order, under the deterministic transform."""
        size = self.cfg.evaluate.card.batch_size
        return Loader(dataset, self.fixed_transform, batch_size=size, seed=0, shuffle=False)

    def references(self, dataset: Dataset) -> dict[str, Tensor]:
        """Reference name → vectors float32 [N, D] in dataset order, from the cache or computed
        (by the main process; the others then read its file)."""
        folder = cache_root() / "references"

        def vectors(name: str) -> Tensor:
            loader = self.fixed_loader(dataset)
            with Counter(f"references {name} of {dataset.name}", len(dataset)) as count:
                return reference_vectors(
                    self.encoders[name], loader, folder, progress=lambda done, _: count(done)
                )

        def make_all() -> None:
            for name in self.encoders:
                vectors(name)

        if self.team.world_size > 1:
            self.team.on_main(make_all)
        return {name: vectors(name) for name in self.encoders}

    @property
    def online(self) -> bool:
        """Whether references must be computed on each augmented crop as training goes."""
        return not self.transform.deterministic

    def training_loader(self, cfg: TrainConfig, *, with_references: bool) -> Loader:
        """Shuffled batches for the loop, with ``reference/<name>`` columns where asked for."""
        columns = {}
        if with_references and not self.online:
            named = self.references(self.train)
            columns = {REFERENCE + name: named[name] for name in self.cfg.terms}
        return Loader(
            self.train,
            self.transform,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            rank=self.team.rank,
            world_size=self.team.world_size,
            columns=columns,
        )

    def validation_batch(self, size: int, *, with_references: bool) -> dict[str, Any]:
        """One fixed held-out batch for validation during training: the first of the measured."""
        rows = torch.arange(min(size, len(self.val)))
        columns = {}
        if with_references and not self.online:
            named = self.references(self.val)
            columns = {REFERENCE + name: named[name][rows] for name in self.cfg.terms}
        loader = Loader(
            subset(self.val, rows), self.fixed_transform, batch_size=len(rows), seed=0,
            shuffle=False, columns=columns,
        )  # fmt: skip
        return next(loader.epoch())


def _draw(dataset: Dataset, count: int) -> Dataset:
    """At most ``count`` samples, drawn once for all (files sorted by class would leave classes
    out), in dataset order."""
    if len(dataset) <= count:
        return dataset
    keep = torch.randperm(len(dataset), generator=generator("measured samples"))[:count]
    return subset(dataset, keep.sort().values)
