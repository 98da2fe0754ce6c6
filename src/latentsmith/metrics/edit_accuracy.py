"""Was a picture of captioned shapes edited as asked, and was the rest left alone?

A judge reads the edited pictures (`latentsmith.metrics.shapes_judge`). A ``turn`` shows in no named
factor: such edits are judged only by what they kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.shapes.edits import EDITS, Edit
from latentsmith.errors import UserError, nearest
from latentsmith.metrics.checks import check_count, check_paired
from latentsmith.metrics.registry import metric
from latentsmith.metrics.shapes_judge.matching import match, rows_of
from latentsmith.metrics.shapes_judge.tables import ATTRIBUTES, check_tables, scene_tables

KINDS = tuple(EDITS)
FACTORS = ("shape", "color", "size", "position", "background", "count")
"""What can be kept. ``count``: there are no more objects than before, or than asked."""
ALL_PARTS = ("changed", "kept", "all_kept", "done", *(f"kept_{factor}" for factor in FACTORS))
_KIND = 6  # row (kind, slot, whether the background must be kept, -1)


def edit_tables(edits: Sequence[Edit]) -> Tensor:
    """Edits in numbers, int64 [N, 9, 4]: the tables by slot of sources (rows 0 to 2) and targets
    (3 to 5), ``(kind, slot, background kept, -1)``, and for each slot which of
    ``(shape, color, size, position)`` must be kept."""
    if not edits:
        return torch.empty(0, 9, 4, dtype=torch.int64)
    source = scene_tables([edit.source for edit in edits])
    target = scene_tables([edit.target for edit in edits])
    rest = []
    for edit in edits:
        kept = set(edit.untouched)
        kind = [KINDS.index(edit.attribute), edit.slot, int("background" in kept), -1]
        slots = [[int(f"object{k}.{what}" in kept) for what in ATTRIBUTES] for k in (0, 1)]
        rest.append([kind, *slots])
    return torch.cat([source, target, torch.tensor(rest)], 1)


def _parts(edits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """source, target, kind [N], slot [N]."""
    return edits[:, :3], edits[:, 3:6], edits[:, _KIND, 0], edits[:, _KIND, 1]


def _changed(found: Tensor, edits: Tensor) -> Tensor:
    """Whether what was asked for is there: bool [N]; False for turns."""
    source, target, kind, slot = _parts(edits)
    right = rows_of(found, match(found, target)) == target[:, 1:]  # [N, 2, 4]
    own = right[torch.arange(len(found)), slot.clamp_min(0)]  # of the edited object
    removed = source[torch.arange(len(found)), 1 + slot.clamp_min(0)]
    alike = found[:, 1:] == removed[:, None]
    remains = (alike[:, :, 3] | alike[:, :, :2].all(2)) & (found[:, 1:, 0] >= 0)
    out = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    outcomes = dict(zip(ATTRIBUTES, own.unbind(1), strict=True))
    outcomes["background"] = found[:, 0, 0] == target[:, 0, 0]
    outcomes["add"] = own.all(1)
    outcomes["remove"] = ~remains.any(1)
    for name, outcome in outcomes.items():
        out = torch.where(kind == KINDS.index(name), outcome, out)
    return out


def _kept(found: Tensor, edits: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each untouched factor is as it was, and whether it had to be: bool [N, 10] each.

    Columns: (shape, color, size, position) of slot 0, of slot 1, background, count.
    """
    source, target, _, _ = _parts(edits)
    right = (rows_of(found, match(found, target)) == target[:, 1:]).flatten(1)
    most = torch.maximum(source[:, 0, 1], target[:, 0, 1])
    count = (found[:, 1:, 0] >= 0).sum(1) <= most
    whole = torch.stack([found[:, 0, 0] == source[:, 0, 0], count], 1)
    asked = torch.cat([edits[:, _KIND + 1 :].flatten(1), edits[:, _KIND, 2:3]], 1) > 0
    return torch.cat([right, whole], 1), torch.cat([asked, torch.ones_like(asked[:, :1])], 1)


def _factor(right: Tensor, asked: Tensor, factor: str) -> Tensor:
    """Whether one factor is kept in all objects it had to be kept in; of the images where so."""
    k = FACTORS.index(factor)
    columns = [k, k + 4] if k < len(ATTRIBUTES) else [k + 4]
    right, asked = right[:, columns], asked[:, columns]
    return (right | ~asked).all(1)[asked.any(1)]


def edits_per_sample(
    found_scenes: Tensor, edits: Tensor, *, part: str, kind: str | None = None
) -> Tensor:
    """Value of each image that ``part`` can be judged of, float64 [M] in [0, 1]; as
    `edit_accuracy`."""
    for value, known in ((part, ALL_PARTS), (kind, (None, *KINDS))):
        if value not in known:
            raise UserError(
                f"no {value!r} to judge of an edit. {nearest(str(value), filter(None, known))}"
            )
    check_tables(found_scenes, "found_scenes")
    check_tables(edits, "edits", 8)
    check_paired(found_scenes, edits, "found_scenes", "edits")
    edits = edits.to(found_scenes.device)
    if kind is not None:
        of_kind = edits[:, _KIND, 0] == KINDS.index(kind)
        found_scenes, edits = found_scenes[of_kind], edits[of_kind]
    right, asked = _kept(found_scenes, edits)
    judged = edits[:, _KIND, 0] != KINDS.index("turn")
    all_kept = (right | ~asked).all(1)
    if part == "changed":
        values = _changed(found_scenes, edits)[judged]
    elif part == "done":
        values = (_changed(found_scenes, edits) & all_kept)[judged]
    elif part == "kept":
        values = (right & asked).sum(1) / asked.sum(1)
    elif part == "all_kept":
        values = all_kept
    else:
        values = _factor(right, asked, part.removeprefix("kept_"))
    check_count(len(values), 1, f"edit accuracy, {part}", "edit it can be judged of")
    return values.double()


def _untouched(
    found_scenes: Tensor, edits: Tensor, *, seed: int, part: str, kind: str | None
) -> tuple[float, dict[str, Any]]:
    """What the sources would get, unedited."""
    value = edit_accuracy(edits[:, :3].to(found_scenes.device), edits, part=part, kind=kind)
    return value, {"chance": "the source, unedited"}


@metric(
    "edit_accuracy",
    help="share of edited pictures of shapes in which a judge finds the change, or the rest kept",
    inputs=("found_scenes", "edits"),
    higher_is_better=True,
    best=1.0,
    per_sample=edits_per_sample,
    baseline=_untouched,
)
def edit_accuracy(
    found_scenes: Tensor, edits: Tensor, *, part: str = "changed", kind: str | None = None
) -> float:
    """Mean over images in [0, 1].

    Args:
        found_scenes: what a judge reads in the edited images, int [N, 1 + K, 4] (`Judge.read`).
        edits: what was asked, int [N, 9, 4] (`edit_tables`).
        part: ``changed``: the requested attribute is right (of an added object: all four; of a
            removed one: nothing lies in its cell, and nothing has its shape and color), turns left
            out; ``kept``: share of each image's untouched factors that are right; ``all_kept``: all
            of them; ``done``: changed and all kept, turns left out; ``kept_<factor>`` with one of
            `FACTORS`, in all objects where it had to be kept.
        kind: only edits of one of `KINDS`.

    Raises:
        UserError: other tables, an unknown part or kind, no edit to judge.
    """
    return float(edits_per_sample(found_scenes, edits, part=part, kind=kind).mean())
