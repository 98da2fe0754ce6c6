"""The images of one run: those it trains on, those it measures, those probes learn from."""

import logging
from functools import cached_property

from latentsmith.data.base import Dataset, DatasetConfig, Split
from latentsmith.data.subset import draw
from latentsmith.utils.cache import cache_root
from latentsmith.utils.distributed import rank

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
        dataset = self._data.build(split, cache_root() / "data")
        if rank() == 0:
            log.info("data: %s, %d images, from %s", dataset.name, len(dataset), dataset.origin)
        return dataset
