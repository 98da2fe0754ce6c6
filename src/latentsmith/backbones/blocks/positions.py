"""Where a token lies on its grid: sin-cos vectors to add, or rotations of queries and keys."""

import math

import torch
from torch import Tensor

BASE = 10_000.0


def grid_coordinates(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(row, column) of every token in raster order, each float64 [N]."""
    rows, columns = (torch.arange(n, dtype=torch.float64, device="cpu") for n in grid)
    return rows.repeat_interleave(grid[1]), columns.repeat(grid[0])


def frequencies(count: int) -> Tensor:
    """BASE^(−k / count), k = 0 … count − 1, float64 [count]."""
    k = torch.arange(count, dtype=torch.float64, device="cpu")
    return torch.exp(-math.log(BASE) / count * k)


def sincos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed positions of ViT, MAE and DiT, float64 [N, width].

    Four quarters: sin and cos of the column, sin and cos of the row (in this order in all
    published weights), with width/4 frequencies each. ``width`` is a multiple of 4.
    """
    row, column = grid_coordinates(grid)
    omega = frequencies(width // 4)
    parts = [f(x[:, None] * omega) for x in (column, row) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1)


def rope_2d(head: int, grid: tuple[int, int]) -> Tensor:
    """Rotations of axial RoPE (Su et al. 2021; in two dimensions as EVA-02), float64 [2, N, head].

    Cosines and sines for `rotate`. Dimension j and j + head/2 form a plane; the first quarter of
    the planes turns with the row, the second with the column, so that the product of a query and
    a key depends on their displacement alone. ``head`` is a multiple of 4.
    """
    row, column = grid_coordinates(grid)
    omega = frequencies(head // 4)
    angle = torch.cat([row[:, None] * omega, column[:, None] * omega], dim=1)  # [N, head/2]
    angle = torch.cat([angle, angle], dim=1)
    return torch.stack([angle.cos(), angle.sin()])


def rope_1d(head: int, length: int) -> Tensor:
    """Rotations of RoPE along a sequence (Su et al. 2021, arXiv 2104.09864), float64
    [2, length, head], for `rotate`. ``head`` is even."""
    place = torch.arange(length, dtype=torch.float64, device="cpu")
    angle = place[:, None] * frequencies(head // 2)  # [length, head/2]
    angle = torch.cat([angle, angle], dim=1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """x [B, heads, N, head] turned by ``rope`` [2, N, head], in x's dtype."""
    cos, sin = rope.unbind(0)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * cos + turned * sin).to(x.dtype)
