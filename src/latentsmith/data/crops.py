"""Large pictures → many squares, training and validation squares from regions that never meet."""

from torch import Tensor

from latentsmith.data.base import Split
from latentsmith.errors import UserError


def region(picture: Tensor, split: Split, side: int, val_fraction: float, name: str) -> Tensor:
    """The part of a picture [C, H, W] that belongs to one split, as a view.

    The longer axis is cut: its end is for validation, ``val_fraction`` of the length but at least
    ``side``, the rest for training.

    Raises:
        UserError: a part would hold no square of ``side``.
    """
    height, width = picture.shape[-2:]
    length = max(height, width)
    held = max(side, round(val_fraction * length))
    if min(height, width) < side or length - held < side:
        raise UserError(
            f"{name} is {height} x {width}: a region for training and one for validation do not "
            f"both hold squares of {side}. Take a smaller resolution or val_fraction."
        )
    start, count = (0, length - held) if split == "train" else (length - held, held)
    return picture.narrow(-1 if width >= height else -2, start, count)


def squares(picture: Tensor, side: int, stride: int) -> Tensor:
    """All squares at multiples of ``stride``: [C, H, W] → [K, C, side, side], row by row."""
    found = picture.unfold(-2, side, stride).unfold(-2, side, stride)  # [C, h, w, side, side]
    return found.flatten(1, 2).transpose(0, 1).contiguous()
