"""Where things are: one convention for every resolution and 1, 2 or 3 dimensions.

The domain is [-1, 1]^d. A lattice of R points along an axis has them at the centers of R equal
cells, c_i = (2i + 1 - R) / R. So 32 points are among 96 (every third, from the second), bit for
bit: both are quotients of integers, rounded once. Grids that hold both ends (x / (R - 1)) nest
nowhere, and half a pixel of shift counts as error.

Coordinate k belongs to axis k of the array: (row, column) in an image, not (x, y). Points of a
lattice are in raster order, as ``values.flatten(2)`` has them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentsmith.errors import UserError

MOST_DIMS = 3

Resolution = int | Sequence[int]
"""Points along every axis, or along each."""


def sizes(resolution: Resolution, dims: int) -> tuple[int, ...]:
    """Points along each of ``dims`` axes.

    Raises:
        UserError: not 1 to 3 dimensions, another number of sizes, a size below 1.
    """
    if not 1 <= dims <= MOST_DIMS:
        raise UserError(f"fields have 1, 2 or 3 dimensions, not {dims}.")
    each = (resolution,) * dims if isinstance(resolution, int) else tuple(resolution)
    if len(each) != dims or min(each) < 1:
        raise UserError(
            f"resolution {resolution} does not fit {dims} dimension(s): "
            "give one positive number, or one for each axis."
        )
    return each


def axis(points: int, device: torch.device | str = "cpu") -> Tensor:
    """Cell centers of one axis in [-1, 1], float32 [points]."""
    # Integers below 2^24 are exact in float32, and so is their quotient's one rounding.
    return torch.arange(1 - points, points, 2, dtype=torch.float32, device=device) / points


def grid(resolution: Resolution, dims: int = 2, device: torch.device | str = "cpu") -> Tensor:
    """Cell centers of a lattice in raster order, float32 [R^d, d] in [-1, 1].

    Raises UserError: see `sizes`.
    """
    axes = [axis(points, device) for points in sizes(resolution, dims)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def cell(resolution: Resolution, dims: int = 2, device: torch.device | str = "cpu") -> Tensor:
    """Extent of one cell along each axis, float32 [d]: 2 / R."""
    return 2 / torch.tensor(sizes(resolution, dims), dtype=torch.float32, device=device)


def cell_of(coordinates: Tensor, resolution: Resolution) -> Tensor:
    """Raster number of the cell that holds each point: [..., d] in [-1, 1] → int64 [...].

    A point on the upper border belongs to the last cell.
    """
    each = sizes(resolution, coordinates.shape[-1])
    index = torch.zeros(coordinates.shape[:-1], dtype=torch.int64, device=coordinates.device)
    for points, c in zip(each, coordinates.unbind(-1), strict=True):
        along = ((c + 1) * (points / 2)).floor().long().clamp(0, points - 1)
        index = index * points + along
    return index
