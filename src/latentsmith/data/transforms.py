"""Antialiased image transforms on tensors, without torchvision.

`resize` on uint8 gives PIL's bicubic to the bit or within one grey level; without antialiasing
a zone plate is off by 59 grey levels RMS, with kornia's RandomResizedCrop by 76 (research note
E, section 1.3). Every random choice comes from a row of uniform numbers, so a transform is a
pure function of (image, row) and can be repeated anywhere.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema

Box = tuple[int, int, int, int]
"""top, left, height, width in pixels."""

_CROP_TRIES = 10


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize, as PIL's ``BICUBIC``.

    Args:
        images: [B, C, H, W] or [C, H, W]; uint8, or float in [0, 1].
        size: (height, width) wanted.

    Returns:
        Same dtype and rank. Floats are clamped to [0, 1]: bicubic overshoots at edges.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    batch = images if images.dim() == 4 else images[None]
    out = F.interpolate(batch, size=size, mode="bicubic", antialias=True, align_corners=False)
    if out.is_floating_point():
        out = out.clamp(0, 1)
    return out if images.dim() == 4 else out[0]


def center_box(height: int, width: int) -> Box:
    """The largest centred square."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def random_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: Tensor,
) -> Box:
    """Inception crop: area uniform in ``scale``, log aspect ratio uniform in ``ratio``.

    The algorithm of torchvision's ``RandomResizedCrop.get_params``: ten tries, then the central
    crop nearest in shape.

    Args:
        height, width: image size in pixels.
        scale: range of the crop's area as a fraction of the image's.
        ratio: range of width / height.
        draws: [40] uniform numbers in [0, 1): area, ratio, top and left for each try.
    """
    area = height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for u_area, u_ratio, u_top, u_left in draws.view(_CROP_TRIES, 4).tolist():
        target = area * (scale[0] + (scale[1] - scale[0]) * u_area)
        aspect = math.exp(low + (high - low) * u_ratio)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    aspect = width / height
    if aspect < ratio[0]:
        w, h = width, min(height, round(width / ratio[0]))
    elif aspect > ratio[1]:
        w, h = min(width, round(height * ratio[1])), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def crop(images: Tensor, box: Box) -> Tensor:
    """The box [..., h, w] of [..., H, W], as a view."""
    top, left, height, width = box
    return images[..., top : top + height, left : left + width]


def pad(images: Tensor, pixels: int, value: float = 0) -> Tensor:
    """[..., H, W] → [..., H + 2 pixels, W + 2 pixels] with a constant border."""
    return F.pad(images, (pixels,) * 4, value=value) if pixels else images


def to_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 [..., 1 or 3, H, W] → [..., channels, H, W].

    Grey is repeated; colour becomes ITU-R 601 luma with PIL's integer rounding (``convert("L")``).
    """
    have = images.shape[-3]
    if have == channels:
        return images
    if have == 1:
        return images.expand(*images.shape[:-3], channels, *images.shape[-2:])
    if (have, channels) != (3, 1):
        raise ValueError(f"images have {have} channels; only 1 and 3 convert to each other")
    red, green, blue = images.int().unbind(-3)
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.to(torch.uint8).unsqueeze(-3)


@schema
class TransformConfig:
    """How raw images become the network's input: crop, resize, flip, channels."""

    resolution: Annotated[int, Field(ge=1)]
    """Side of the square output in pixels."""
    crop: Literal["center", "random", "none"] = "center"
    """center: largest centred square; random: a random area and shape (Inception crop); none:
    the whole image is squeezed into the square."""
    flip: bool = False
    """Mirror left-right with probability one half."""
    scale: tuple[float, float] = (0.8, 1.0)
    """crop=random: range of the crop's area as a fraction of the image's."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """crop=random: range of the crop's width / height."""
    channels: Literal[1, 3] = 3
    """1: grey; 3: RGB (grey images are repeated)."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}: it needs 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}: it needs 0 < low <= high")

    def deterministic(self) -> "TransformConfig":
        """The same without chance, for measuring: random crops become central ones, no flip."""
        crop = "center" if self.crop == "random" else self.crop
        return replace(self, crop=crop, flip=False)

    def build(self) -> "Transform":
        """The transform; it holds no state."""
        return Transform(self)


class Transform:
    """uint8 images of any size → float32 [channels, R, R] in [0, 1].

    Attributes:
        deterministic: True when no random number is used: references and latents can be cached.
        draws: uniform numbers used per image (0 when deterministic).
    """

    def __init__(self, cfg: TransformConfig):
        self.cfg = cfg
        self.draws = (1 if cfg.flip else 0) + (4 * _CROP_TRIES if cfg.crop == "random" else 0)
        self.deterministic = self.draws == 0

    def fingerprint(self) -> dict[str, Any]:
        """What the output depends on. JSON-able; settings that do nothing are left out."""
        cfg = self.cfg
        out: dict[str, Any] = {
            "resolution": cfg.resolution,
            "crop": cfg.crop,
            "flip": cfg.flip,
            "channels": cfg.channels,
            "resize": "bicubic-antialias-uint8",
        }
        if cfg.crop == "random":
            out |= {"scale": list(cfg.scale), "ratio": list(cfg.ratio)}
        return out

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """uint8 [C, H, W] → float32 [channels, R, R]; ``generator`` is used only if random."""
        draws = torch.rand(1, self.draws, dtype=torch.float64, generator=generator)
        return self.batch(image[None], draws)[0]

    def batch(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Many images of one size at once.

        Args:
            images: uint8 [B, C, H, W].
            draws: [B, self.draws] uniform numbers; may be None when deterministic.

        Returns:
            float32 [B, channels, R, R] in [0, 1], contiguous, the same as one by one.
        """
        cfg = self.cfg
        if draws is None:
            if not self.deterministic:
                raise ValueError("a random transform needs draws [B, self.draws]")
            draws = torch.empty(len(images), 0)
        grey = cfg.channels == 1 or images.shape[1] == 1  # three equal channels: resize just one
        images = self._square(to_channels(images, 1) if grey else images, draws)
        if cfg.flip:
            mirrored = (draws[:, 0] < 0.5).view(-1, 1, 1, 1)
            images = torch.where(mirrored, images.flip(-1), images)
        # Division, not multiplication by 1 / 255: white must be exactly 1.
        return to_channels(images.float().div_(255), cfg.channels).contiguous()

    def _square(self, images: Tensor, draws: Tensor) -> Tensor:
        """uint8 [B, C, H, W] → uint8 [B, C, R, R]."""
        cfg = self.cfg
        size = (cfg.resolution, cfg.resolution)
        height, width = images.shape[-2:]
        if cfg.crop == "none":
            return resize(images, size)
        if cfg.crop == "center":
            return resize(crop(images, center_box(height, width)), size)
        rows = draws[:, -4 * _CROP_TRIES :]
        boxes = [random_box(height, width, cfg.scale, cfg.ratio, row) for row in rows]
        return torch.stack(
            [resize(crop(image, box), size) for image, box in zip(images, boxes, strict=True)]
        )
