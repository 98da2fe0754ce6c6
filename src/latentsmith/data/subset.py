"""Part of a dataset."""

from torch import Tensor

from latentsmith.data.base import Dataset, Sample
from latentsmith.data.memory import GatherDataset
from latentsmith.utils.digest import json_digest


class Subset:
    """The samples of ``dataset`` at ``indices`` int64 [M], in that order.

    Position i of the subset is sample ``indices[i]``; a batch's ``"index"`` counts positions of the
    subset. The digest covers the dataset's and the choice.
    """

    def __init__(self, dataset: Dataset, indices: Tensor):
        self.dataset, self.indices = dataset, indices
        self.name, self.classes, self.origin = dataset.name, dataset.classes, dataset.origin
        self.digest = json_digest({"of": dataset.digest, "indices": indices.tolist()})
        self.image_keys: tuple[str, ...] = getattr(dataset, "image_keys", ("image",))

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
    kind = GatherSubset if isinstance(dataset, GatherDataset) else Subset
    return kind(dataset, indices)
