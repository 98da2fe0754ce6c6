"""scikit-learn's handwritten digits: 1,797 grey images of 8×8, no download."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Split
from latentsmith.data.memory import MemoryDataset, split_indices


@DATASETS.register("digits", help="scikit-learn's handwritten digits, 8x8 grey, 10 classes")
@schema
class DigitsConfig(DatasetConfig):
    """1,797 images in 10 classes; a seeded fraction is held out."""

    kind: Literal["digits"] = "digits"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of the images held out for validation."""
    seed: int = 0
    """Seeds the split."""

    def build(self, split: Split, cache: Path) -> MemoryDataset:
        """Images uint8 [N, 1, 8, 8] (0…16 stretched to 0…255), labels 0…9."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).view(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
        keep = split_indices(len(images), split, self.val_fraction, self.seed, "digits")
        return MemoryDataset(
            images[keep],
            torch.from_numpy(labels)[keep],
            name=f"digits/{split}",
            classes=[str(digit) for digit in range(10)],
            origin="scikit-learn load_digits",
        )
