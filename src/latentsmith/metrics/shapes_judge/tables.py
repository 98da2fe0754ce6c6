"""What pictures show, and what is asked of them, as integer tables.

A table is int64 [N, 1 + K, 4]: row 0 is ``(background, count, relation, -1)``, each further row an
object ``(shape, color, size, cell)``, with cell = 3 row + column. -1: not there, or not asked. Two
layouts: by slot (K = 2), which keeps the dataset's numbering, and by cell (K = 9), which is all
that a picture tells: an object is in row 1 + cell.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latentsmith.data.shapes.factors import factor_tensors
from latentsmith.data.shapes.scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, Scene
from latentsmith.errors import UserError

ATTRIBUTES: tuple[str, ...] = ("shape", "color", "size", "position")
"""Columns of an object's row."""
CLASSES = (len(SHAPES), len(COLORS), len(SIZES), len(CELLS))
"""How many values each column has."""
RELATIONS = ("to the left of", "to the right of", "above", "below")
"""Of the first object to the second, as captions say it (`latentsmith.data.shapes.texts`)."""

Shown = Sequence[Scene] | Mapping[str, Tensor]
"""Scenes, or their factors as `factor_tensors` gives them."""


def scene_tables(shown: Shown) -> Tensor:
    """Everything about N scenes by slot, int64 [N, 3, 4]."""
    factors = shown if isinstance(shown, Mapping) else factor_tensors(shown)
    row, col = factors["row"], factors["col"]
    cell = torch.where(row < 0, -1, 3 * row + col)
    objects = torch.stack([factors["shape"], factors["color"], factors["size"], cell], 2)
    nothing = torch.full_like(factors["count"], -1)
    whole = [factors["background"], factors["count"], _relation(row, col), nothing]
    return torch.cat([torch.stack(whole, 1)[:, None], objects], 1)


def _relation(row: Tensor, col: Tensor) -> Tensor:
    """Index into `RELATIONS` from [N, 2] each; -1 with a single object."""
    beside = (col[:, 0] - col[:, 1]).abs() == 2
    found = torch.where(beside, (col[:, 0] > col[:, 1]).long(), 2 + (row[:, 0] > row[:, 1]).long())
    return torch.where((row < 0).any(1), -1, found)


def cell_tables(shown: Shown) -> Tensor:
    """What a perfect reader sees in N scenes, by cell: int64 [N, 10, 4]."""
    tables = scene_tables(shown)
    out = torch.full((len(tables), 1 + len(CELLS), 4), -1)
    out[:, 0, :2] = tables[:, 0, :2]  # a picture does not say which object is the first
    for slot in (1, 2):
        there = (tables[:, slot, 3] >= 0).nonzero()[:, 0]
        out[there, 1 + tables[there, slot, 3]] = tables[there, slot]
    return out


def asked_tables(shown: Shown, mentions: Sequence[Sequence[str]]) -> Tensor:
    """What captions ask for, by slot, int64 [N, 3, 4]: `scene_tables` with -1 for what a caption
    leaves out. How many objects there are is always asked.

    Args:
        shown: what the captions were written about.
        mentions: factors that each caption names, ``["background", "object0.shape", "relation"]``.

    Raises:
        UserError: another number of captions than scenes, unknown factors, objects not there, a
            relation of a single object, objects of which nothing is named.
    """
    tables = scene_tables(shown)
    if len(tables) != len(mentions):
        raise UserError(f"{len(mentions)} lists of mentioned factors for {len(tables)} scenes")
    asked = torch.zeros_like(tables, dtype=torch.bool)
    asked[:, 0, 1] = True
    for n, names in enumerate(mentions):
        for name in names:
            asked[n][_place(name)] = True
    lost = (asked & (tables < 0)).flatten(1).any(1)
    silent = ((tables[:, 1:] >= 0) & asked[:, 1:]).any(2) != (tables[:, 1:, 0] >= 0)
    for wrong, why in ((lost, "does not have"), (silent.any(1), "has an object not named in")):
        if wrong.any():
            n = int(wrong.nonzero()[0])
            raise UserError(f"scene {n} {why} what its caption mentions: {list(mentions[n])}")
    return torch.where(asked, tables, -1)


def _place(name: str) -> tuple[int, int]:
    """Row and column of a factor's name."""
    if name in ("background", "relation"):
        return 0, 0 if name == "background" else 2
    item, _, what = name.partition(".")
    if item not in ("object0", "object1") or what not in ATTRIBUTES:
        raise UserError(
            f"no factor {name!r}: captions mention background, relation and object0 or object1 "
            f"with .{', .'.join(ATTRIBUTES)}"
        )
    return 1 + int(item[-1]), ATTRIBUTES.index(what)


def check_tables(tables: Tensor, name: str, objects: int | None = None) -> Tensor:
    """``tables`` unchanged. Raises UserError for anything but integer tables as above."""
    wanted = "K" if objects is None else objects
    fits = tables.ndim == 3 and tables.shape[2] == 4 and tables.shape[1] >= 3
    fits = fits and (objects is None or tables.shape[1] == 1 + objects)
    if not fits or tables.is_floating_point():
        kind = str(tables.dtype).removeprefix("torch.")
        raise UserError(
            f"{name} must be an integer tensor [N, 1 + {wanted}, 4] "
            f"(latentsmith.metrics.shapes_judge.tables), got {kind} {list(tables.shape)}"
        )
    return tables


BACKGROUND_CLASSES = len(BACKGROUNDS)
