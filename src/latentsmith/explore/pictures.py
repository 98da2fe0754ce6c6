"""Pictures from and to the browser. What comes in passes the library's own decoder, which bounds
what a small file may unpack to."""

import base64
import binascii
import io
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.base import CorruptSample
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.training.grids import image_grid


def png(images: Tensor, *, columns: int | None = None) -> bytes:
    """Images [N, C, H, W] in [0, 1] as one PNG, edge to edge."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image_grid(images, gap=0, columns=columns)).save(out, format="PNG")
    return out.getvalue()


def data_url(image: Tensor) -> str:
    """An image [C, H, W] in [0, 1] as the text that ``<img src>`` takes."""
    return "data:image/png;base64," + base64.b64encode(png(image[None])).decode()


def uploaded(url: str, transform: TransformConfig) -> Tensor:
    """An uploaded image as an arm sees it, [C, R, R] in [0, 1].

    Raises:
        UserError: no image, or one that cannot be read.
    """
    mode: Mode = "gray" if transform.channels == 1 else "rgb"
    return transform.deterministic().build()(_decoded(url, mode, "the image"))


def mask_of(url: str, side: int) -> Tensor:
    """What was painted, bool [1, 1, side, side], true where it is white.

    Raises:
        UserError: no picture, or nothing painted.
    """
    drawn = _decoded(url, "gray", "the mask")[None].float() / 255
    mask = F.interpolate(drawn, (side, side), mode="nearest-exact") > 0.5
    if not bool(mask.any()):
        raise UserError("nothing is painted: mark with the mouse what is to be made anew")
    return mask


def _decoded(url: str, mode: Mode, name: str) -> Tensor:
    head, _, body = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64")):
        raise UserError(f"{name}: not a picture from this page")
    try:
        return decode_image(base64.b64decode(body, validate=True), mode, name)
    except binascii.Error as error:
        raise UserError(f"{name}: damaged on its way here ({error})") from error
    except CorruptSample as error:
        raise UserError(f"{error}") from error


def sheet(thumbnails: Tensor, across: int) -> tuple[bytes, int]:
    """(PNG of all thumbnails [N, C, S, S] in rows of ``across``, its number of rows)."""
    return png(thumbnails, columns=across), math.ceil(len(thumbnails) / across)


def difference(a: Tensor, b: Tensor, gain: float = 4.0) -> Tensor:
    """|a − b| of images [C, H, W], ``gain`` times, clipped to [0, 1]."""
    return torch.clamp((a - b).abs() * gain, 0, 1)
