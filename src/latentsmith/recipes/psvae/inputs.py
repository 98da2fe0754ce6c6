"""Images, captions and instructions of one run, and their caches for each latent space."""

from dataclasses import dataclass
from functools import cached_property

import torch

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.data.base import Dataset
from latentsmith.data.edited import edited, has_edits
from latentsmith.data.splits import Splits
from latentsmith.encoders.text.base import TextEncoder
from latentsmith.recipes.psvae.config import PSVAEConfig
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.contents import Contents, fill
from latentsmith.stores.latents import latent_contents
from latentsmith.stores.source import StoreBatches
from latentsmith.stores.text_table import TextTable
from latentsmith.stores.texts import captions, text_contents
from latentsmith.training.task import Batch
from latentsmith.training.team import Team
from latentsmith.utils.counter import Counter

TARGET = "target"
"""Name of the store of edited images' latents among those that make a batch."""
SAMPLE = "text"
"""The column with the number that finds a sample's caption and instruction."""


@dataclass
class Texts:
    """What is said of one set of images.

    Attributes:
        captions: one a sample.
        instructions: likewise, where there are edits.
    """

    captions: TextTable
    instructions: TextTable | None


class Inputs(Splits):
    """Datasets and caches of one run; each is made when first asked for."""

    def __init__(self, cfg: PSVAEConfig, team: Team):
        evaluate = cfg.evaluate
        super().__init__(cfg.data, count=evaluate.count, probe_count=evaluate.probe_count)
        self.cfg, self.team = cfg, team
        self.transform = cfg.transform.build()

    @property
    def edits(self) -> bool:
        """Whether the data have edits, and the run learns them."""
        return has_edits(self.train) and self.cfg.diffusion.edit_share > 0

    # Texts ----------------------------------------------------------------------------------------

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Frozen, on the team's device."""
        return self.cfg.text_encoder.build().to(self.team.device)

    @cached_property
    def texts(self) -> Texts:
        """Of the training images."""
        return self._texts(self.train)

    @cached_property
    def held_out_texts(self) -> Texts:
        """Of the held-out images."""
        return self._texts(self.val)

    def _texts(self, images: Dataset) -> Texts:
        told = self._table(images)
        return Texts(told, self._table(edited(images)) if self.edits else None)

    def _table(self, images: Dataset) -> TextTable:
        return TextTable.of(self._fill(text_contents(self.text_encoder, captions(images))))

    # Latents --------------------------------------------------------------------------------------

    def latents(self, autoencoder: Autoencoder, images: Dataset) -> dict[str, FeatureStore]:
        """Stores that make a batch: the images' latents (``""``), and the edited images'
        (``"target"``)."""
        sides = {"": images} | ({TARGET: edited(images)} if self.edits else {})
        what = "mode" if self.cfg.diffusion.latent == "mode" else "moments"
        return {
            name: self._fill(latent_contents(autoencoder, side, self.transform, what=what))
            for name, side in sides.items()
        }

    def batches(self, autoencoder: Autoencoder, batch_size: int, seed: int) -> StoreBatches:
        """Shuffled training batches of this process."""
        return self._reader(autoencoder, self.train, batch_size, seed, shuffle=True)

    def validation_batch(self, autoencoder: Autoencoder, size: int) -> Batch:
        """The first held-out samples with what is said of them, as a training batch."""
        source = self._reader(autoencoder, self.val, min(size, len(self.val)), 0, shuffle=False)
        batch = {name: value.clone() for name, value in next(source.epoch()).items()}
        numbers = batch.pop(SAMPLE)
        texts = {SAMPLE: self.held_out_texts.captions}
        if self.held_out_texts.instructions is not None:
            texts["instruction"] = self.held_out_texts.instructions
        for name, table in texts.items():
            told = table.condition(numbers)
            batch[f"{name}/embedding"] = told["text"]
            if "mask" in told:
                batch[f"{name}/mask"] = told["mask"]
        return batch

    def _reader(
        self,
        autoencoder: Autoencoder,
        images: Dataset,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool,
    ) -> StoreBatches:
        stores = self.latents(autoencoder, images)
        numbers = torch.arange(len(stores[""]))
        return StoreBatches(
            stores,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            rank=self.team.rank if shuffle else 0,
            world_size=self.team.world_size if shuffle else 1,
            columns={SAMPLE: numbers},
            rows={TARGET: numbers} if TARGET in stores else None,
        )

    def _fill(self, contents: Contents) -> FeatureStore:
        """The store in the user's cache, where runs with the same settings share it."""
        rows = f"{contents.manifest.content} of {contents.manifest.source['name']}"
        with Counter(rows, contents.manifest.count) as count:
            return fill(
                contents.default_path(),
                contents,
                batch_size=self.cfg.cache_batch,
                rank=self.team.rank,
                world_size=self.team.world_size,
                progress=lambda done, _: count(done),
            )
