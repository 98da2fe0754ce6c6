"""Settings of the photographs of Debian's wallpapers."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Split
from latentsmith.data.crops import squares
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.wallpapers.pictures import held_out
from latentsmith.data.wallpapers.sources import SIDE, find, made_small
from latentsmith.errors import UserError


@DATASETS.register("wallpapers", help="squares of 26 photographs in Debian's wallpapers, RGB")
@schema
class WallpapersConfig(DatasetConfig):
    """Squares of whole photographs: six of the 26 (every fourth by name) are for validation, and
    nothing of them is ever trained on. There are no classes.

    Sources in order: ``folder``; small copies of an earlier download in the cache; Debian's
    installed packages mate-backgrounds and lomiri-wallpapers-16.04; the same packages downloaded
    and unpacked without root (62 MB, once). Whatever the source, the files must have the known
    SHA-256. Licences: CC BY 4.0, CC BY-SA 4.0, CC0 and GPL 2 or later, see
    `latentsmith.data.wallpapers.pictures`.
    """

    kind: Literal["wallpapers"] = "wallpapers"
    folder: Path | None = None
    """Folder that the two packages were unpacked into (dpkg-deb -x FILE FOLDER). When given, no
    other source is tried."""
    resolution: Annotated[int, Field(ge=8, le=512)] = 96
    """Side of the squares in pixels."""
    sizes: Annotated[list[Annotated[int, Field(ge=8, le=SIDE)]], Field(min_length=1)] = (
        dataclasses.field(default_factory=lambda: [480])
    )
    """Longer sides in pixels that photographs are made small to. Training squares come from all of
    them, validation squares from the first."""
    stride: Annotated[int, Field(ge=1)] = 48
    """Pixels between one training square and the next."""
    val_stride: Annotated[int, Field(ge=1)] | None = None
    """Pixels between one validation square and the next. None: the resolution, no overlap."""

    def build(self, split: Split, cache: Path) -> MemoryDataset:
        """Images uint8 [N, 3, R, R]. Raises UserError naming every source and why it failed, or
        for squares too large."""
        photographs, origin = find(self.folder, cache)
        stride, sizes = self.stride, self.sizes
        if split == "val":
            stride, sizes = self.val_stride or self.resolution, sizes[:1]
        cut = [
            self._squares(name, made_small(picture, size), stride)
            for name, picture in photographs.items()
            if held_out(name) == (split == "val")
            for size in sizes
        ]
        name = f"wallpapers{self.resolution}/{split}"
        return MemoryDataset(torch.cat(cut), name=name, origin=origin)

    def _squares(self, name: str, picture: Tensor, stride: int) -> Tensor:
        """[K, 3, R, R] of a picture [3, H, W]. Raises UserError where it holds none."""
        height, width = picture.shape[1:]
        if min(height, width) < self.resolution:
            raise UserError(
                f"wallpaper {name} made {max(height, width)} pixels long is {height} x {width} and "
                f"holds no square of {self.resolution}: take larger data.sizes (up to {SIDE}) or a "
                "smaller data.resolution."
            )
        return squares(picture, self.resolution, stride)
