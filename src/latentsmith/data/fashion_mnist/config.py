"""Settings of Fashion-MNIST."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Split
from latentsmith.data.fashion_mnist.sources import find
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.scatter import scatter
from latentsmith.data.transforms import pad

SMALLEST = 16
"""Least size of scattered images, in pixels."""

CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


@DATASETS.register("fashion_mnist", help="70,000 grey images of clothes, 28x28, 10 classes")
@schema
class FashionMNISTConfig(DatasetConfig):
    """60,000 training and 10,000 validation images, from whichever source has them.

    Sources in order: ``folder``; an earlier download in the cache; Debian's installed package
    dataset-fashion-mnist; the Hugging Face hub; the same Debian package downloaded and unpacked
    without root. Whatever the source, the decoded data must have the known SHA-256.
    """

    kind: Literal["fashion_mnist"] = "fashion_mnist"
    folder: Path | None = None
    """Folder with the four IDX files (.gz or not). When given, no other source is tried."""
    pad: Annotated[int, Field(ge=0)] = 0
    """Black pixels added on every side: 2 gives 32x32."""
    scatter: Annotated[int, Field(ge=28)] | None = None
    """Side of a black square on which each image lies at a place and a size (16 to 28) of its own,
    half of them mirrored: a task in which position alone tells nothing. None: as they are."""
    train_count: Annotated[int, Field(ge=1, le=60_000)] | None = None
    """Use only the first so many training images (they are in random order). None: all."""
    val_count: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Use only the first so many validation images. None: all."""

    def __post_init__(self) -> None:
        if self.scatter is not None and self.pad:
            raise ValueError("scatter and pad both say how large the images are: set one of them")

    def build(self, split: Split, cache: Path) -> MemoryDataset:
        """Images uint8 [N, 1, S, S] with S = 28 + 2 pad or ``scatter``, labels 0…9.

        Raises UserError naming every source and why it failed."""
        images, labels, origin = find(split, self.folder, cache)
        count = self.train_count if split == "train" else self.val_count
        name, images = f"fashion_mnist/{split}", images[:count, None]
        if self.scatter is None:
            images = pad(images, self.pad)
        else:
            images = scatter(images, self.scatter, SMALLEST, name=name)
            name = f"fashion_mnist_scattered/{split}"
        return MemoryDataset(
            images,
            labels[:count],
            name=name,
            classes=CLASSES,
            origin=origin,
        )
