"""Factors of scenes as tensors and as words."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.shapes.scene import (
    BACKGROUND_RGB,
    BACKGROUNDS,
    COLOR_RGB,
    COLORS,
    COLS,
    PERIOD,
    ROWS,
    SHAPES,
    SIZES,
    Item,
    Scene,
)


def factor_tensors(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Every factor of B scenes.

    Returns:
        int64 [B, 2], -1 for an empty slot: ``shape``, ``color``, ``size``, ``row``, ``col``;
        float32 [B, 2], 0 for an empty slot: ``x``, ``y``, ``radius`` (fractions of the side) and
        ``turn`` (degrees clockwise); int64 [B]: ``background``, ``count``.
    """

    def named(value: Any) -> Tensor:
        rows = [[-1 if item is None else value(item) for item in s.slots] for s in scenes]
        return torch.tensor(rows, dtype=torch.int64)

    def measured(value: Any) -> Tensor:
        rows = [[0.0 if item is None else value(item) for item in s.slots] for s in scenes]
        return torch.tensor(rows, dtype=torch.float32)

    return {
        "shape": named(lambda item: item.shape),
        "color": named(lambda item: item.color),
        "size": named(lambda item: item.size),
        "row": named(lambda item: item.cell[0]),
        "col": named(lambda item: item.cell[1]),
        "x": measured(lambda item: item.center[0]),
        "y": measured(lambda item: item.center[1]),
        "radius": measured(lambda item: item.radius),
        "turn": measured(lambda item: item.turn),
        "background": torch.tensor([scene.background for scene in scenes]),
        "count": torch.tensor([sum(item is not None for item in s.slots) for s in scenes]),
    }


def factor_words(scene: Scene) -> dict[str, Any]:
    """The named factors, for people: ``{"background": "white", "object0": {"shape": …}}``."""
    words: dict[str, Any] = {"background": BACKGROUNDS[scene.background]}
    for k, item in scene.items():
        words[f"object{k}"] = {
            "shape": SHAPES[item.shape],
            "color": COLORS[item.color],
            "size": SIZES[item.size],
            "position": f"{ROWS[item.cell[0]]} {COLS[item.cell[1]]}",
            "turn": round(item.turn, 1),
        }
    return words


def factor_vectors(scenes: Sequence[Scene]) -> Tensor:
    """A reference space in which distance means difference of factors: float32 [B, 38].

    Per slot: presence, shape (one-hot), color (RGB), x, y, radius and the angle modulo the
    shape's period; then the background's grey level. Unlike another shape (distance 1), another
    radius or place moves a scene only as far as it changed. An empty slot is all zeros.
    """
    return torch.tensor(
        [
            [
                *_slot_vector(scene.slots[0]),
                *_slot_vector(scene.slots[1]),
                BACKGROUND_RGB[scene.background][0] / 255,
            ]
            for scene in scenes
        ],
        dtype=torch.float32,
    )


def _slot_vector(item: Item | None) -> list[float]:
    if item is None:
        return [0.0] * (1 + len(SHAPES) + 3 + 3 + 2)
    shape = [math.sqrt(0.5) * (k == item.shape) for k in range(len(SHAPES))]
    color = [channel / 255 for channel in COLOR_RGB[item.color]]
    x, y = item.center
    period = PERIOD[item.shape]
    phase = 2 * math.pi * item.turn / period if period else 0.0
    angle = [0.5 * math.cos(phase), 0.5 * math.sin(phase)] if period else [0.0, 0.0]
    return [1.0, *shape, *color, x, y, item.radius, *angle]
