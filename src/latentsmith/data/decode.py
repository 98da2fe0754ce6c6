"""Image bytes → uint8 tensor, always the same way."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from latentsmith.data.base import CorruptSample

if TYPE_CHECKING:
    from PIL.Image import Image

Mode = Literal["rgb", "gray"]

MOST_PIXELS = 178_956_970
"""Pixels of the largest image that is decoded, a gigabyte or so in memory; PIL's own limit. A few
kilobytes of PNG can claim a million times as many."""


def decode_image(source: "Path | bytes | Image", mode: Mode, name: str) -> Tensor:
    """Decode with PIL: PNG, JPEG, WebP, BMP…

    The camera's orientation tag is applied, transparency is laid over white, and 16-bit grey is
    scaled to 8 bits (PIL alone would clip it to white).

    Args:
        source: a file, encoded bytes or an opened PIL image.
        mode: ``"rgb"`` → 3 channels, ``"gray"`` → 1 channel (ITU-R 601 luma).
        name: what to call it in the error.

    Returns:
        uint8 [C, H, W].

    Raises:
        CorruptSample: it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(source, bytes | Path):
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        else:
            opened = source
        with opened:
            if opened.width * opened.height > MOST_PIXELS:  # where PIL's own limit was lifted
                raise Image.DecompressionBombError
            image = ImageOps.exif_transpose(opened)
            pixels = np.array(_flatten(image, "RGB" if mode == "rgb" else "L"))
    except Image.DecompressionBombError as error:
        raise CorruptSample(
            f"{name}: it has more than the {MOST_PIXELS:,} pixels that are decoded; save it smaller"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptSample(f"{name}: {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()


def _flatten(image: "Image", mode: str) -> "Image":
    """8 bits, no alpha, no palette."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise ValueError(
            f"pixels of mode {image.mode!r} have no known range; save it in 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
