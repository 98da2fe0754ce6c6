"""What every dataset promises."""

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.registry import Registry

DATASETS = Registry("dataset", "latentsmith.data")

Split = Literal["train", "val"]

Sample = dict[str, Any]
"""``"image"`` uint8 tensor [C, H, W]; where known ``"label"`` int, ``"caption"`` str and whatever
else the source has. Raw: transforms come later."""


@runtime_checkable
class Dataset(Protocol):
    """Random access to raw samples.

    Attributes:
        name: short name with its split, for protocol stamps ("fashion_mnist/val").
        classes: class names, or None without labels.
        digest: hex digest that changes when any sample does.
        origin: where the bytes came from, for the log ("Debian package dataset-fashion-mnist").
    """

    name: str
    classes: list[str] | None
    origin: str

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """One raw sample. Raises `latentsmith.data.base.CorruptSample` when unreadable."""
        ...


def keys_of(dataset: Dataset) -> list[str]:
    """A key for every sample, unique in the dataset: what the dataset itself calls its samples
    (``sample_keys()``: file names, ids of the source), else the index as text."""
    named = getattr(dataset, "sample_keys", None)
    return [str(index) for index in range(len(dataset))] if named is None else list(named())


class CorruptSample(UserError):
    """A sample that cannot be read; the loader reports it and skips it within a budget."""


@schema
class DatasetConfig:
    """Base of all dataset configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self, split: Split, cache: Path) -> Dataset:
        """Open (fetching if need be) one split. ``cache`` is where fetched or derived files may
        be kept. Raises UserError when the data cannot be had, naming every way to get it."""
        raise TypeError(f"{type(self).__name__} has no build()")
