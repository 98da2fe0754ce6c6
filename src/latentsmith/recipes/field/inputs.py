"""Images of one run, the points of the held-out ones that are given, and caches of codes."""

from functools import cached_property

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.data.base import Dataset
from latentsmith.data.fields import ImageField, observe
from latentsmith.data.loader import Loader
from latentsmith.data.splits import Splits
from latentsmith.recipes.field.config import FieldConfig
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.contents import fill
from latentsmith.stores.latents import latent_contents
from latentsmith.stores.source import StoreBatches
from latentsmith.training.task import Batch
from latentsmith.training.team import Team
from latentsmith.utils.counter import Counter
from latentsmith.utils.seeding import generator


class Inputs(Splits):
    """Datasets and caches of one run; each is made when first asked for."""

    def __init__(self, cfg: FieldConfig, team: Team):
        evaluate = cfg.evaluate
        super().__init__(cfg.data, count=evaluate.count, probe_count=evaluate.probe_count)
        self.cfg, self.team = cfg, team
        self.transform = cfg.transform.build()
        self.measured = cfg.transform.deterministic().build()

    # Held-out fields ------------------------------------------------------------------------------

    @cached_property
    def truth(self) -> Tensor:
        """The held-out images [n, C, H, W] in [-1, 1]."""
        loader = Loader(self.val, self.measured, batch_size=64, seed=0, shuffle=False)
        return torch.cat([2 * batch["image"] - 1 for batch in loader.epoch()])

    @cached_property
    def given(self) -> tuple[Tensor, Tensor, Tensor]:
        """What every method is given of them: coordinates [n, N, d], values [n, N, C], and which
        lattice points these are, bool [n, L]. The same in every run with this seed."""
        sampling = self.cfg.sampling
        return observe(
            ImageField(self.truth),
            sampling.resolution,
            self.cfg.evaluate.inputs,
            sampling.pattern.build(),
            generator(self.cfg.seed, "given points"),
        )

    def at(self, resolution: int) -> Tensor:
        """The truth at a side: area means [n, C, R, R] in [-1, 1]."""
        return ImageField(self.truth).lattice(resolution)

    # Training -------------------------------------------------------------------------------------

    def images(self, batch_size: int, seed: int) -> Loader:
        """Shuffled training batches of this process."""
        return Loader(
            self.train,
            self.transform,
            batch_size=batch_size,
            seed=seed,
            rank=self.team.rank,
            world_size=self.team.world_size,
        )

    def few(self, count: int) -> Batch:
        """The first held-out images as a training batch."""
        loader = Loader(
            self.val, self.measured, batch_size=min(count, len(self.val)), seed=0, shuffle=False
        )
        return next(loader.epoch())

    # Codes ----------------------------------------------------------------------------------------

    def codes(self, autoencoder: Autoencoder, images: Dataset) -> FeatureStore:
        """The codes of whole images, in the user's cache."""
        contents = latent_contents(autoencoder, images, self.measured, what="mode")
        rows = f"codes of {contents.manifest.source['name']}"
        with Counter(rows, contents.manifest.count) as count:
            return fill(
                contents.default_path(),
                contents,
                batch_size=self.cfg.cache_batch,
                rank=self.team.rank,
                world_size=self.team.world_size,
                progress=lambda done, _: count(done),
            )

    def code_batches(self, autoencoder: Autoencoder, batch_size: int, seed: int) -> StoreBatches:
        """Shuffled training batches of codes."""
        return StoreBatches(
            {"": self.codes(autoencoder, self.train)},
            batch_size=batch_size,
            seed=seed,
            shuffle=True,
            rank=self.team.rank,
            world_size=self.team.world_size,
        )

    def few_codes(self, autoencoder: Autoencoder, count: int) -> Batch:
        """The first held-out codes as a training batch."""
        source = StoreBatches(
            {"": self.codes(autoencoder, self.val)},
            batch_size=min(count, len(self.val)),
            seed=0,
            shuffle=False,
        )
        return {name: value.clone() for name, value in next(source.epoch()).items()}
