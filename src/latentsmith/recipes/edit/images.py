"""Image and mask files → what a generator takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.base import CorruptSample
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.image_folder import SUFFIXES
from latentsmith.data.transforms import TransformConfig, center_box, crop
from latentsmith.errors import UserError

SHAPE_TOLERANCE = 0.02
"""By how much a mask's width / height may differ from its image's: sizes are whole pixels."""


@dataclass(frozen=True)
class Source:
    """One given image."""

    file: Path
    size: tuple[int, int]
    """Height and width of the file in pixels."""
    image: Tensor
    """[C, R, R] in [0, 1]."""


def image_files(given: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in the folders, by name.

    Raises:
        UserError: nothing there, or a folder without images.
    """
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise UserError(f"images: {path}: no such file or folder")
        inside = [path]
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        if not inside:
            raise UserError(f"images: {path} holds no images ({', '.join(sorted(SUFFIXES))})")
        found += inside
    return found


def read_source(file: Path, transform: TransformConfig) -> Source:
    """Read an image and make it the generator's size and channels. Raises UserError."""
    raw = _decoded(file, "gray" if transform.channels == 1 else "rgb", "images")
    return Source(file, (raw.shape[1], raw.shape[2]), transform.build()(raw))


def read_mask(file: Path, sources: Sequence[Source], transform: TransformConfig) -> Tensor:
    """Bool [1, 1, R, R], true where the mask is white; cropped as the images and resized to the
    nearest pixel.

    Raises:
        UserError: no such file, no image, or not of an image's shape.
    """
    mask = _decoded(file, "gray", "mask") > 127
    height, width = mask.shape[1:]
    for source in sources:
        tall, wide = source.size
        if abs(width * tall / (height * wide) - 1) > SHAPE_TOLERANCE:
            raise UserError(
                f"mask: {file} is {width} x {height} pixels and {source.file} is {wide} x {tall}: "
                "give a mask of the image's shape, in any size"
            )
    if transform.crop == "center":
        mask = crop(mask, center_box(height, width))
    side = transform.resolution
    return F.interpolate(mask[None].float(), (side, side), mode="nearest-exact") > 0.5


def _decoded(file: Path, mode: Mode, setting: str) -> Tensor:
    if not file.is_file():
        raise UserError(f"{setting}: {file}: no such file")
    try:
        return decode_image(file, mode, str(file))
    except CorruptSample as error:
        raise UserError(f"{setting}: {error}") from error


def stacked(sources: Sequence[Source]) -> Tensor:
    """[N, C, R, R]."""
    return torch.stack([source.image for source in sources])
