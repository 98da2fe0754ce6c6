"""Datasets that know the class of every pixel."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.subset import Subset
from latentsmith.errors import UserError


@runtime_checkable
class SegmentedDataset(Protocol):
    """A dataset that labels pixels, as `latentsmith.data.shapes`.

    Attributes:
        segment_names: names of the classes; label k is ``segment_names[k]``.
    """

    name: str
    segment_names: list[str]

    def segments(self, indices: Tensor) -> Tensor:
        """Class of every pixel of samples int64 [B], before any transform: int64 [B, H, W]."""
        ...


def segments_of(dataset: Dataset, indices: Tensor) -> Tensor:
    """Class of every pixel of samples (or positions of a subset) int64 [B]: int64 [B, H, W].

    Raises:
        UserError: the dataset does not know it.
    """
    if isinstance(dataset, Subset):
        return segments_of(dataset.dataset, dataset.indices[indices])
    return _segmented(dataset).segments(indices)


def segment_names(dataset: Dataset) -> list[str]:
    """Names of the classes of pixels. Raises UserError when the dataset does not know them."""
    if isinstance(dataset, Subset):
        return segment_names(dataset.dataset)
    return _segmented(dataset).segment_names


def _segmented(dataset: Dataset) -> SegmentedDataset:
    if not isinstance(dataset, SegmentedDataset):
        raise UserError(
            f"{dataset.name} does not know the class of every pixel: choose data with exact masks, "
            "as shapes, or give the dataset segments(indices) and segment_names"
        )
    return dataset
