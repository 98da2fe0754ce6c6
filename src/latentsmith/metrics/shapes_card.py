"""Cards of text-to-image and of editing on captioned shapes: what a judge finds in the pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from latentsmith.data.shapes.edits import Edit
from latentsmith.errors import UserError
from latentsmith.metrics.attribute_accuracy import ALL_PARTS
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.checks import check_paired
from latentsmith.metrics.edit_accuracy import ALL_PARTS as EDIT_PARTS
from latentsmith.metrics.edit_accuracy import KINDS, edit_tables, edits_per_sample
from latentsmith.metrics.shapes_judge.judge import Judge
from latentsmith.metrics.shapes_judge.matching import PARTS, verdicts
from latentsmith.metrics.shapes_judge.tables import Shown, asked_tables


def measure_attributes(
    judge: Judge,
    images: Tensor,
    shown: Shown,
    mentions: Sequence[Sequence[str]],
    *,
    stamp: Stamp,
    resamples: int = 200,
    seed: int = 0,
) -> LatentCard:
    """``attribute_accuracy_<part>`` of generated pictures, for each part and ``joint``.

    The baseline is what the same pictures get for captions of other samples. Parts no caption
    mentions are in ``not_measured``. ``figures["found_scenes"]`` and ``["asked_scenes"]`` hold the
    tables, which show the confusions.

    Args:
        images: float [N, 3, R, R] in [0, 1], R the judge's resolution.
        shown: N scenes the captions tell of, or their factors (a batch's ``factors``).
        mentions: what each caption mentions (a batch's ``mentions``).
        stamp: data, sampler, steps, ema; count and judge are filled in here.

    Raises:
        UserError: images, scenes and captions that do not belong together.
    """
    asked = asked_tables(shown, mentions)
    check_paired(images, asked, "images", "captions")
    found = judge.read(images)
    counts = dict(zip(PARTS, verdicts(found, asked)[1].sum(0).tolist(), strict=True))
    card = LatentCard(figures={"found_scenes": found, "asked_scenes": asked})
    for part in ALL_PARTS:
        made = _stamp(stamp, judge, counts.get(part, len(images)))
        how: dict[str, Any] = {"resamples": resamples, "seed": seed, "part": part}
        card.add("attribute_accuracy", found, asked, stamp=made, label=part, **how)
    return card


def measure_edits(
    judge: Judge,
    images: Tensor,
    edits: Sequence[Edit],
    *,
    stamp: Stamp,
    resamples: int = 200,
    seed: int = 0,
) -> LatentCard:
    """``edit_accuracy_<part>`` of edited pictures, and ``edit_accuracy_<part>_when_<kind>`` of
    ``changed``, ``kept`` and ``all_kept`` for each kind of edit.

    Parts: ``changed``, ``kept``, ``all_kept``, ``done``, ``kept_<factor>``. The baseline is what
    the sources would get, unedited. Turns cannot be read: they are not in ``changed`` and ``done``,
    whose stamp says how many were left out (``turns_left_out``).

    Args:
        images: the edited ones, float [N, 3, R, R] in [0, 1].
        edits: `latentsmith.data.shapes.config.ShapesDataset.edit_triples`.
        stamp: as `measure_attributes`.

    Raises:
        UserError: images and edits that do not belong together.
    """
    tables = edit_tables(edits)
    check_paired(images, tables, "images", "edits")
    found = judge.read(images)
    card = LatentCard(figures={"found_scenes": found, "edits": tables})
    turns = sum(edit.attribute == "turn" for edit in edits)
    for part, kind in _jobs({edit.attribute for edit in edits}):
        made = _stamp(stamp, judge, _judged(found, tables, part, kind))
        if part in ("changed", "done") and kind is None:
            made = replace(made, detail={**made.detail, "turns_left_out": turns})
        label = part if kind is None else f"{part}_when_{kind}"
        how: dict[str, Any] = {"resamples": resamples, "seed": seed, "part": part, "kind": kind}
        card.add("edit_accuracy", found, tables, stamp=made, label=label, **how)
    if turns:
        card.not_measured["edit_accuracy_changed_when_turn"] = (
            f"the judge reads no rotation: {turns} turns are judged only by what they kept"
        )
    return card


def _jobs(kinds: set[str]) -> Iterator[tuple[str, str | None]]:
    """What is measured: (part, kind or None for all)."""
    yield from ((part, None) for part in EDIT_PARTS)
    for kind in KINDS:
        if kind in kinds:
            yield from ((part, kind) for part in ("changed", "kept", "all_kept"))


def _judged(found: Tensor, tables: Tensor, part: str, kind: str | None) -> int:
    """Of how many edits it can be told."""
    try:
        return len(edits_per_sample(found, tables, part=part, kind=kind))
    except UserError:
        return 0


def _stamp(stamp: Stamp, judge: Judge, count: int) -> Stamp:
    detail = {**stamp.detail, **judge.fingerprint()}
    return replace(stamp, count=count, space=judge.name, detail=detail)
