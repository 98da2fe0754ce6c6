"""Editing data: samples that hold an image, an instruction, and the image after it.

Samples of such datasets also have ``"target"`` (the edited image, uint8 [C, H, W]) and
``"instruction"`` (str), and ``image_keys`` of the dataset names ``"target"``. `EditedImages` is the
other side of it: the same samples with the edited image as image and the instruction as caption.
"""

import logging
from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from latentsmith.data.base import Dataset, Sample, Split, keys_of
from latentsmith.data.memory import GatherDataset, can_gather
from latentsmith.data.subset import Subset
from latentsmith.utils.digest import json_digest

log = logging.getLogger(__name__)


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

    def caption(self, index: int) -> str:
        """A sample's instruction, without decoding images where the dataset can tell it
        (``instruction(index)``)."""
        dataset: Dataset = self.dataset
        while isinstance(dataset, Subset):
            index, dataset = int(dataset.indices[index]), dataset.dataset
        quick: Callable[[int], str] | None = getattr(dataset, "instruction", None)
        return dataset[index]["instruction"] if quick is None else quick(index)


class GatherEditedImages(EditedImages):
    """`EditedImages` of a dataset that gives many samples at once."""

    dataset: GatherDataset

    def gather(self, indices: Tensor) -> Sample:
        """int64 [B] → collated samples."""
        return _other_side(self.dataset.gather(indices))


def _other_side(sample: Sample) -> Sample:
    return {"image": sample["target"], "caption": sample["instruction"]}


def warn_without_captions(name: str, split: Split) -> None:
    """Say what it means that a dataset of edits has no captions; for its training split only, as
    both are opened."""
    if split == "train":
        log.warning(
            "%s has edits and no captions: every caption is empty, so that what is learned besides "
            "editing is to make images from the empty prompt",
            name,
        )


def warn_left_out(dataset: Dataset) -> None:
    """Say that a copy of ``dataset`` holds no edits."""
    if has_edits(dataset):
        log.warning(
            "%s: images and captions are copied; edited images and instructions are left out",
            dataset.name,
        )


def edited(dataset: Dataset) -> EditedImages:
    """The other side of ``dataset``, able to gather when it is."""
    kind = GatherEditedImages if can_gather(dataset) else EditedImages
    return kind(dataset)
