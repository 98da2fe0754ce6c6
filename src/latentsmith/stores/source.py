"""Training batches straight from a store."""

import itertools
from collections.abc import Iterator
from typing import Any

from latentsmith.data.order import order, rank_slice
from latentsmith.stores.base import FeatureStore
from latentsmith.training.task import Batch


class StoreBatches:
    """Rows of a store in the order of `latentsmith.data.order`, as a
    `latentsmith.training.batches.BatchSource`."""

    def __init__(
        self,
        store: FeatureStore,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ):
        self.store, self.batch_size, self.seed, self.shuffle = store, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the stream depends on."""
        return {
            "store": self.store.manifest.fingerprint(),
            "n": len(self.store),
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def iterate(self, start: int) -> Iterator[Batch]:
        """This rank's part of each global batch, forever, after ``start`` global samples."""
        part = rank_slice(self.batch_size, self.rank, self.world_size)
        for first in itertools.count(start, self.batch_size):
            low, count = first + part.start, part.stop - part.start
            rows = order(len(self.store), self.seed, low, count, shuffle=self.shuffle)
            yield {"index": rows, **self.store.gather(rows)}
