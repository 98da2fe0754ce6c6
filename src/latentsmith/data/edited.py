"""Editing data: samples that hold an image, an instruction, and the image after it.

Samples of such datasets also have ``"target"`` (the edited image, uint8 [C, H, W]) and
``"instruction"`` (str), and ``image_keys`` of the dataset names ``"target"``. `EditedImages` is the
other side of it: the same samples with the edited image as image and the instruction as caption.
"""

from functools import cached_property

from torch import Tensor

from latentsmith.data.base import Dataset, Sample, keys_of
from latentsmith.data.memory import GatherDataset
from latentsmith.utils.digest import json_digest


def has_edits(dataset: Dataset) -> bool:
    """Whether samples have a target and an instruction."""
    return "target" in getattr(dataset, "image_keys", ())


class EditedImages:
    """The edited images of ``dataset``, sample by sample; captions are the instructions."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.name, self.origin = f"{dataset.name} (edited)", dataset.origin
        self.classes: list[str] | None = None  # a label is the source's

    @property
    def digest(self) -> str:
        """Of the dataset's."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return json_digest({"edited": self.dataset.digest})

    def sample_keys(self) -> list[str]:
        """The dataset's."""
        return keys_of(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return _other_side(self.dataset[index])


class GatherEditedImages(EditedImages):
    """`EditedImages` of a dataset that gives many samples at once."""

    dataset: GatherDataset

    def gather(self, indices: Tensor) -> Sample:
        """int64 [B] → collated samples."""
        return _other_side(self.dataset.gather(indices))


def _other_side(sample: Sample) -> Sample:
    return {"image": sample["target"], "caption": sample["instruction"]}


def edited(dataset: Dataset) -> EditedImages:
    """The other side of ``dataset``, able to gather when it is."""
    kind = GatherEditedImages if isinstance(dataset, GatherDataset) else EditedImages
    return kind(dataset)
