"""Part of a dataset."""

from functools import cached_property

import torch
from torch import Tensor

from latentsmith.data.base import Dataset, Sample, keys_of
from latentsmith.data.memory import GatherDataset, can_gather
from latentsmith.utils.digest import json_digest
from latentsmith.utils.seeding import generator


class Subset:
    """The samples of ``dataset`` at ``indices`` int64 [M], in that order.

    Position i of the subset is sample ``indices[i]``; a batch's ``"index"`` counts positions of the
    subset.
    """

    def __init__(self, dataset: Dataset, indices: Tensor):
        self.dataset, self.indices = dataset, indices
        self.name, self.classes, self.origin = dataset.name, dataset.classes, dataset.origin
        self.image_keys: tuple[str, ...] = getattr(dataset, "image_keys", ("image",))

    @property
    def digest(self) -> str:
        """Of the dataset's digest and the choice. Not taken before it is asked for: an image
        folder's reads every file."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return json_digest({"of": self.dataset.digest, "indices": self.indices.tolist()})

    def sample_keys(self) -> list[str]:
        """The samples' keys in the whole dataset, see `latentsmith.data.base.keys_of`."""
        keys = keys_of(self.dataset)
        return [keys[index] for index in self.indices.tolist()]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]


class GatherSubset(Subset):
    """A `Subset` of a dataset that gives many samples at once."""

    dataset: GatherDataset

    def gather(self, indices: Tensor) -> Sample:
        """int64 [B] positions of the subset → collated samples."""
        return self.dataset.gather(self.indices[indices])


def subset(dataset: Dataset, indices: Tensor) -> Subset:
    """The subset, able to gather when ``dataset`` is."""
    kind = GatherSubset if can_gather(dataset) else Subset
    return kind(dataset, indices)


def draw(dataset: Dataset, count: int) -> Dataset:
    """At most ``count`` samples, in dataset order, drawn the same way every time (files sorted by
    class would leave classes out of the first ``count``)."""
    if len(dataset) <= count:
        return dataset
    keep = torch.randperm(len(dataset), generator=generator("measured samples"))[:count]
    return subset(dataset, keep.sort().values)
