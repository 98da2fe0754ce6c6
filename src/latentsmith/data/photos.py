"""Photographs that lie in installed packages, cut into squares: natural images, no download.

scikit-learn's two (china, flower; CC BY) and Matplotlib's one (Grace Hopper; public domain).
Training and validation squares come from different regions of each photograph.
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Split
from latentsmith.data.crops import region, squares
from latentsmith.data.decode import decode_image
from latentsmith.data.memory import MemoryDataset
from latentsmith.errors import UserError

NAMES = ["china", "flower", "hopper"]


@DATASETS.register("photos", help="squares of three photographs in installed packages, RGB")
@schema
class PhotosConfig(DatasetConfig):
    """Squares of three photographs; the class is the photograph.

    The end of each photograph's longer side is for validation, the rest for training. Training
    squares overlap; validation squares do not unless asked to (``val_stride``), so that intervals
    over them mean something.
    """

    kind: Literal["photos"] = "photos"
    resolution: Annotated[int, Field(ge=8, le=256)] = 96
    """Side of the squares in pixels, after ``reduce``."""
    reduce: Annotated[int, Field(ge=1, le=4)] = 1
    """Photographs are first made so many times smaller, by averages of blocks: more scene and more
    detail in each square, fewer squares."""
    stride: Annotated[int, Field(ge=1)] = 16
    """Pixels between one training square and the next."""
    val_stride: Annotated[int, Field(ge=1)] | None = None
    """Pixels between one validation square and the next. None: the resolution, no overlap."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of each photograph's longer side held out (at least one square)."""

    def build(self, split: Split, cache: Path) -> MemoryDataset:
        """Images uint8 [N, 3, R, R], labels 0…2. Raises UserError for squares too large."""
        stride = self.stride if split == "train" else (self.val_stride or self.resolution)
        cut = []
        for name in NAMES:
            picture = reduced(photograph(name), self.reduce)
            part = region(picture, split, self.resolution, self.val_fraction, f"photograph {name}")
            cut.append(squares(part, self.resolution, stride))
        counts = torch.tensor([len(part) for part in cut])
        return MemoryDataset(
            torch.cat(cut),
            torch.arange(len(NAMES)).repeat_interleave(counts),
            name=f"photos{self.resolution}/{split}",
            classes=NAMES,
            origin="photographs of scikit-learn and Matplotlib",
        )


def photograph(name: str) -> Tensor:
    """A photograph of `NAMES`, uint8 [3, H, W].

    Raises:
        UserError: its package comes without it.
    """
    try:
        if name == "hopper":
            from matplotlib.cbook import get_sample_data

            file = Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
            return decode_image(file, "rgb", name)
        from sklearn.datasets import load_sample_image

        return torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1).contiguous()
    except (OSError, AttributeError) as error:
        package = "matplotlib" if name == "hopper" else "scikit-learn"
        raise UserError(
            f"photograph {name} is missing from the installed {package} ({error}). "
            f"Reinstall it: pip install --force-reinstall {package}"
        ) from error


def reduced(picture: Tensor, factor: int) -> Tensor:
    """Means of blocks: uint8 [C, H, W] → uint8 [C, H // factor, W // factor]."""
    if factor == 1:
        return picture
    return F.avg_pool2d(picture.float(), factor).round().to(torch.uint8)
