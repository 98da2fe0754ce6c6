"""The images of one run: those it trains on, those it measures, those probes learn from."""

import logging
from functools import cached_property

from latentsmith.data.base import Dataset, DatasetConfig, Split
from latentsmith.data.subset import draw
from latentsmith.utils.cache import cache_root
from latentsmith.utils.digest import json_digest
from latentsmith.utils.distributed import is_distributed, rank
from latentsmith.utils.lock import first_alone

log = logging.getLogger(__name__)


class Splits:
    """Training and held-out images, each opened when first asked for.

    Args:
        data: where they come from.
        count: held-out images measured, at most.
        probe_count: training images that probes learn from, at most.
    """

    def __init__(self, data: DatasetConfig, *, count: int, probe_count: int):
        self._data, self._count, self._probe_count = data, count, probe_count

    @cached_property
    def train(self) -> Dataset:
        """Training images."""
        return self._open("train")

    @cached_property
    def val(self) -> Dataset:
        """The held-out images that are measured, drawn from the split once for all."""
        return draw(self._open("val"), self._count)

    @cached_property
    def probe(self) -> Dataset:
        """The training images that probes learn from."""
        return draw(self.train, self._probe_count)

    def _open(self, split: Split) -> Dataset:
        """Of several processes, whoever of those that share the cache (of this machine, or of all)
        comes first fetches what is missing and reads it through; the others find what it left. A
        lock and no collective: a split may be asked for by the main process alone, and one that
        raises holds up nobody."""
        cache = cache_root() / "data"
        if is_distributed():
            settings = json_digest(repr(self._data))[:16]
            with first_alone(cache / f"{self._data.kind}-{split}-{settings}"):
                dataset = self._data.build(split, cache)
                dataset.digest  # noqa: B018 - all need it: a folder's files are read once, by one
        else:
            dataset = self._data.build(split, cache)
        if rank() == 0:
            log.info("data: %s, %d images, from %s", dataset.name, len(dataset), dataset.origin)
        return dataset
