"""What is computed once: latents, teacher tokens and texts, of the training and held-out images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.autoencoders.kl import KLAutoencoder
from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.splits import Splits
from latentsmith.data.subset import Subset
from latentsmith.diffusion.task import TOLD
from latentsmith.encoders.base import Encoder
from latentsmith.encoders.cache import reference_vectors
from latentsmith.recipes.urepa.config import UREPAConfig
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.contents import Contents, fill
from latentsmith.stores.features import token_contents
from latentsmith.stores.latents import latent_contents
from latentsmith.stores.source import StoreBatches
from latentsmith.stores.text_table import TextTable
from latentsmith.stores.texts import captions, class_texts, text_contents
from latentsmith.training.task import Batch
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root
from latentsmith.utils.counter import Counter

TEACHER = "teacher"
"""Name of the token store among those that make a batch: its field is ``teacher/tokens``."""
SAMPLE = "text"
"""The column with the number that finds a sample's caption."""


@dataclass
class Caches:
    """The three caches of one set of images.

    Attributes:
        latents: posterior moments or means, and labels.
        tokens: the teacher's.
        texts: of the classes, or of each sample's caption.
    """

    latents: FeatureStore
    tokens: FeatureStore
    texts: FeatureStore

    def fingerprint(self) -> dict[str, str]:
        """Name → fingerprint of what each holds."""
        stores = {"latents": self.latents, "tokens": self.tokens, "texts": self.texts}
        return {name: store.manifest.fingerprint() for name, store in stores.items()}


class Inputs(Splits):
    """Datasets, autoencoder and caches of one run; each is made when first asked for.

    Args:
        autoencoder: folder of the saved autoencoder, measured.
    """

    def __init__(self, cfg: UREPAConfig, team: Team, autoencoder: Path):
        evaluate = cfg.evaluate
        super().__init__(cfg.data, count=evaluate.count, probe_count=evaluate.probe_count)
        self.cfg, self.team, self.folder = cfg, team, autoencoder
        self.transform = cfg.transform.build()

    @cached_property
    def autoencoder(self) -> KLAutoencoder:
        """Frozen, on the team's device."""
        config = replace(self.cfg.autoencoder, source=str(self.folder), subfolder=None)
        return config.build().to(self.team.device).requires_grad_(False).eval()

    @cached_property
    def teacher(self) -> Encoder:
        """The vision encoder, on the team's device."""
        return self.cfg.teacher.build().to(self.team.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.autoencoder.latent_shape(self.cfg.transform.resolution)

    # Caches ---------------------------------------------------------------------------------------

    @cached_property
    def training(self) -> Caches:
        """Of the training images."""
        return self._caches(self.train)

    @cached_property
    def held_out(self) -> Caches:
        """Of the held-out images."""
        return self._caches(self.val)

    def _caches(self, images: Dataset) -> Caches:
        cfg, seen = self.cfg, (images, self.transform)
        what = "mode" if cfg.diffusion.latent == "mode" else "moments"
        tokens = token_contents(self.teacher, *seen, dtype=cfg.caches.dtype, grid=cfg.caches.grid)
        words = captions(images) if cfg.texts == "captions" else class_texts(images, cfg.template)
        speaker = cfg.text_encoder.build().to(self.team.device)
        return Caches(
            latents=self._fill(latent_contents(self.autoencoder, *seen, what=what)),
            tokens=self._fill(tokens),
            texts=self._fill(text_contents(speaker, words)),
        )

    def _fill(self, contents: Contents) -> FeatureStore:
        """The store in the user's cache, where runs with the same settings share it."""
        rows = f"{contents.manifest.content} of {contents.manifest.source['name']}"
        with Counter(rows, contents.manifest.count) as count:
            return fill(
                contents.default_path(),
                contents,
                batch_size=self.cfg.caches.batch_size,
                rank=self.team.rank,
                world_size=self.team.world_size,
                progress=lambda done, _: count(done),
            )

    # Reading --------------------------------------------------------------------------------------

    @cached_property
    def texts(self) -> TextTable:
        """What the network is told, by class or by number of the training sample."""
        return TextTable.of(self.training.texts)

    def batches(self, batch_size: int, seed: int) -> StoreBatches:
        """Shuffled training batches of this process: latents, labels, ``teacher/tokens``."""
        return StoreBatches(
            {"": self.training.latents, TEACHER: self.training.tokens},
            batch_size=batch_size,
            seed=seed,
            rank=self.team.rank,
            world_size=self.team.world_size,
            columns=self._numbers(self.training),
        )

    def validation_batch(self, size: int) -> Batch:
        """The first held-out samples, as a training batch."""
        source = self._reader(self.held_out, min(size, len(self.val)))
        batch = next(iter(source.epoch()))
        if self.cfg.texts == "captions":
            told = TextTable.of(self.held_out.texts).condition(batch.pop(SAMPLE))
            batch |= {key: told[name] for name, key in TOLD.items() if name in told}
        return {name: value.clone() for name, value in batch.items()}

    def measured(self, batch_size: int) -> StoreBatches:
        """Every held-out sample once, in order."""
        return self._reader(self.held_out, batch_size)

    def probed(self, batch_size: int) -> Iterator[Batch]:
        """The training samples that probes learn from, batch by batch: all at once, teacher tokens
        do not fit in memory."""
        caches, subset = self.training, self.probe
        rows = subset.indices if isinstance(subset, Subset) else torch.arange(len(subset))
        readable = self._reader(caches, batch_size).joined.readable
        rows = rows[torch.isin(rows, readable)]
        return (self._rows(caches, part) for part in rows.split(batch_size))

    def _rows(self, caches: Caches, rows: Tensor) -> Batch:
        latents, tokens = caches.latents, caches.tokens
        return {
            "index": rows,
            **latents.gather(rows, fields=list(latents.manifest.fields)),
            f"{TEACHER}/tokens": tokens.gather(rows, fields=["tokens"])["tokens"],
        }

    def _reader(self, caches: Caches, batch_size: int) -> StoreBatches:
        return StoreBatches(
            {"": caches.latents, TEACHER: caches.tokens},
            batch_size=batch_size,
            seed=0,
            shuffle=False,
            columns=self._numbers(caches),
            copy=True,
        )

    def _numbers(self, caches: Caches) -> dict[str, Tensor]:
        """The column that finds captions; none where classes do."""
        if self.cfg.texts == "classes":
            return {}
        return {SAMPLE: torch.arange(len(caches.latents))}

    def vectors(self, images: Dataset) -> Tensor:
        """The teacher's own vectors [N, D] of whole images, for the Fréchet distance."""
        loader = Loader(
            images, self.transform, batch_size=self.cfg.caches.batch_size, seed=0, shuffle=False
        )
        return reference_vectors(self.teacher, loader, cache_root() / "references")
