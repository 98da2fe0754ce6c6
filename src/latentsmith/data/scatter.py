"""Images at places and sizes of their own: what is in them no longer lies where it always lies."""

import torch
from torch import Tensor

from latentsmith.data.transforms import resize
from latentsmith.utils.seeding import generator


def scatter(images: Tensor, side: int, smallest: int, *, name: str) -> Tensor:
    """Each image resized to a size of its own, mirrored or not, somewhere on a black square.

    A pixel's position then says nothing by itself. What image i becomes depends on ``name`` and i
    alone.

    Args:
        images: uint8 [N, C, H, H].
        side: of the square, at least H.
        smallest: least size; sizes are uniform from there to H.
        name: seeds places and sizes; another for each split.

    Returns:
        uint8 [N, C, side, side].
    """
    count, channels, largest = images.shape[:3]
    # a row for each image, so that the first n are the same whatever the count
    draws = torch.rand(count, 4, generator=generator("scatter", name), dtype=torch.float64)
    sizes = smallest + (draws[:, 0] * (largest - smallest + 1)).long()
    room = side - sizes + 1
    tops, lefts = ((draws[:, k] * room).long() for k in (1, 2))
    out = images.new_zeros(count, channels, side, side)
    for size in sizes.unique().tolist():
        rows = (sizes == size).nonzero().flatten()
        small = resize(images[rows], (size, size))
        mirrored = (draws[rows, 3] < 0.5).view(-1, 1, 1, 1)
        small = torch.where(mirrored, small.flip(-1), small)
        along = torch.arange(size)
        y = (tops[rows, None] + along)[:, None, :, None]  # [n, 1, size, 1]
        x = (lefts[rows, None] + along)[:, None, None, :]
        out[rows[:, None, None, None], torch.arange(channels)[:, None, None], y, x] = small
    return out
