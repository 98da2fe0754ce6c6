"""Scenes → antialiased pixels, from signed distances.

A pixel's coverage is ``clamp(1/2 - d)`` with d the signed distance of its center to the outline
in pixels (negative inside). Distances are only taken in a window around each object, which makes
64×64 images about ten times cheaper than over the whole picture.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentsmith.data.shapes.scene import (
    BACKGROUND_RGB,
    COLOR_RGB,
    RADII,
    RADIUS_JITTER,
    SHAPES,
    Item,
    Scene,
)

Outline = Callable[[Tensor, Tensor], Tensor]
"""x, y (y down, unit circumscribed circle) → signed distance, negative inside. Exact near
straight and round edges, which is where coverage is not 0 or 1."""


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.75).abs() - 0.25


def _half_circle(x: Tensor, y: Tensor) -> Tensor:
    """A dome, centered: corners on the unit circle, flat side at y = 0.45."""
    base = 0.45
    return torch.maximum(torch.hypot(x, y - base) - math.sqrt(1 - base**2), y - base)


def _fold(x: Tensor, y: Tensor, n: int, phase: float) -> tuple[Tensor, Tensor]:
    """Into one wedge of an n-fold mirror symmetry: angle [0, pi/n] from the axis through a tip,
    which points up for phase 0. Returns coordinates along and across that axis."""
    sector = 2 * math.pi / n
    angle = torch.atan2(x, -y) + phase
    angle = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    r = torch.hypot(x, y)
    return r * angle.cos(), r * angle.sin()


def _star(n: int, inner: float, phase: float = 0.0) -> Outline:
    """n tips on the unit circle, notches at radius ``inner``; cos(pi/n) gives the polygon."""
    dx, dy = inner * math.cos(math.pi / n) - 1, inner * math.sin(math.pi / n)
    length = math.hypot(dx, dy)
    nx, ny = dy / length, -dx / length  # outward normal of the edge from tip to notch

    def distance(x: Tensor, y: Tensor) -> Tensor:
        along, across = _fold(x, y, n, phase)
        return nx * (along - 1) + ny * across

    return distance


def _polygon(n: int, phase: float = 0.0) -> Outline:
    return _star(n, math.cos(math.pi / n), phase)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    """A plus: arms of half width 0.33 whose corners lie on the unit circle."""
    half = 0.33
    along, across = _fold(x, y, 4, 0.0)
    return torch.maximum(along - math.sqrt(1 - half**2), across - half)


OUTLINES: dict[str, Outline] = {
    "circle": _circle,
    "ring": _ring,
    "half-circle": _half_circle,
    "triangle": _polygon(3),
    "square": _polygon(4, math.pi / 4),
    "hexagon": _polygon(6),
    "star": _star(5, 0.45),
    "cross": _cross,
}


def _window(resolution: int) -> int:
    """Side in pixels of a window that holds any object wherever it lies on the pixel grid."""
    return math.ceil(2 * max(RADII) * (1 + RADIUS_JITTER) * resolution) + 3


def _coverage(items: Sequence[Item], resolution: int) -> tuple[Tensor, Tensor]:
    """Coverage float32 [M, P*P] in each object's window, and the windows' pixel numbers int64
    [M, P*P] in the flattened picture."""
    side = _window(resolution)
    geometry = torch.tensor(
        [[*item.center, item.radius, math.radians(item.turn)] for item in items],
        dtype=torch.float64,
    )
    x, y, radius, turn = (geometry * torch.tensor([resolution] * 3 + [1.0])).unbind(1)
    left = (x - side / 2).round().long().clamp(0, resolution - side)
    top = (y - side / 2).round().long().clamp(0, resolution - side)
    steps = torch.arange(side)
    cols, rows = left[:, None] + steps, top[:, None] + steps  # [M, P]
    dx = ((cols + 0.5 - x[:, None]) / radius[:, None]).float()[:, None, :]
    dy = ((rows + 0.5 - y[:, None]) / radius[:, None]).float()[:, :, None]
    cos, sin = turn.cos().float().view(-1, 1, 1), turn.sin().float().view(-1, 1, 1)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # turned back by the object's rotation
    distance = torch.empty(len(items), side, side)
    kinds = torch.tensor([item.shape for item in items])
    for kind in kinds.unique().tolist():
        rows_of = kinds == kind
        distance[rows_of] = OUTLINES[SHAPES[kind]](u[rows_of], v[rows_of])
    coverage = (0.5 - distance * radius.float().view(-1, 1, 1)).clamp(0, 1)
    pixels = rows[:, :, None] * resolution + cols[:, None, :]
    return coverage.flatten(1), pixels.flatten(1)


def render(scenes: Sequence[Scene], resolution: int) -> Tensor:
    """Draw scenes: uint8 [B, 3, resolution, resolution]. Resolution at least 16."""
    palette = torch.tensor(BACKGROUND_RGB, dtype=torch.float32)
    image = palette[[scene.background for scene in scenes]][:, :, None]
    image = image.repeat(1, 1, resolution * resolution)  # [B, 3, R*R]
    for slot in range(2):
        filled = [(b, item) for b, scene in enumerate(scenes) if (item := scene.slots[slot])]
        if not filled:
            continue
        where = torch.tensor([b for b, _ in filled])
        coverage, pixels = _coverage([item for _, item in filled], resolution)
        color = torch.tensor([COLOR_RGB[item.color] for _, item in filled]).float()[:, :, None]
        index = pixels[:, None, :].expand(-1, 3, -1)
        canvas = image[where]
        under = canvas.gather(2, index)
        over = under + coverage[:, None, :] * (color - under)
        image[where] = canvas.scatter_(2, index, over)
    return image.round_().to(torch.uint8).view(-1, 3, resolution, resolution)


def masks(scenes: Sequence[Scene], resolution: int) -> Tensor:
    """Coverage of each slot's object in each pixel: float32 [B, 2, R, R] in [0, 1]; an empty slot
    is all zero. Objects never overlap, so both are fully visible."""
    out = torch.zeros(len(scenes), 2, resolution * resolution)
    for slot in range(2):
        filled = [(b, item) for b, scene in enumerate(scenes) if (item := scene.slots[slot])]
        if filled:
            coverage, pixels = _coverage([item for _, item in filled], resolution)
            rows = torch.tensor([b for b, _ in filled])
            out[rows, slot] = torch.zeros(len(filled), out.shape[2]).scatter_(1, pixels, coverage)
    return out.view(-1, 2, resolution, resolution)


def segments(scenes: Sequence[Scene], resolution: int) -> Tensor:
    """What lies at the center of each pixel: int64 [B, R, R], 0 the background, 1 + k the shape
    ``SHAPES[k]``. More than half of such a pixel is covered; the object drawn last lies on top."""
    out = torch.zeros(len(scenes), resolution, resolution, dtype=torch.int64)
    covered = masks(scenes, resolution) > 0.5  # coverage is 1/2 - distance: inside the outline
    for slot in range(2):
        items = [scene.slots[slot] for scene in scenes]
        kinds = torch.tensor([0 if item is None else 1 + item.shape for item in items])
        out = torch.where(covered[:, slot], kinds.view(-1, 1, 1), out)
    return out
