"""Edit accuracy, with readings that are known: targets, unedited sources, each thing done wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.shapes.edits import EDITS
from latentsmith.data.shapes.scene import CELLS, COLORS, SHAPES
from latentsmith.errors import UserError
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.edit_accuracy import (
    ALL_PARTS,
    FACTORS,
    KINDS,
    edit_accuracy,
    edit_tables,
    edits_per_sample,
)
from latentsmith.metrics.registry import METRICS
from latentsmith.metrics.shapes_card import measure_edits
from latentsmith.metrics.shapes_judge.tables import cell_tables, scene_tables

N = 800
DATA = ShapesConfig(train_count=N, seed=3).build("train", Path())
TRIPLES = DATA.edit_triples(range(N))
TABLES = edit_tables(TRIPLES)


def of(kind):
    return [edit for edit in TRIPLES if edit.attribute == kind]


def value(scenes, edits, part, kind=None):
    return edit_accuracy(cell_tables(scenes), edit_tables(edits), part=part, kind=kind)


def test_tables_say_what_the_edit_says():
    names = ("shape", "color", "size", "position")
    for table, edit in zip(TABLES, TRIPLES, strict=True):
        assert torch.equal(table[:3], scene_tables([edit.source])[0])
        assert torch.equal(table[3:6], scene_tables([edit.target])[0])
        assert table[6, :2].tolist() == [list(EDITS).index(edit.attribute), edit.slot]
        kept = ["background"] if table[6, 2] else []
        kept += [
            f"object{k}.{name}"
            for k in (0, 1)
            for name, asked in zip(names, table[7 + k].tolist(), strict=True)
            if asked
        ]
        assert kept == [name for name in edit.untouched if not name.endswith("turn")]
    assert edit_tables([]).shape == (0, 9, 4)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_targets_are_right_and_sources_unchanged(kind):
    source = cell_tables([edit.source for edit in TRIPLES])
    target = cell_tables([edit.target for edit in TRIPLES])
    for part in ALL_PARTS:
        if kind == "turn" and part in ("changed", "done"):
            continue
        if kind == "background" and part == "kept_background":
            continue
        assert edit_accuracy(target, TABLES, part=part, kind=kind) == 1, part
        kept = part not in ("changed", "done")
        assert edit_accuracy(source, TABLES, part=part, kind=kind) == kept, part


def test_turns_are_judged_only_by_what_they_kept():
    target = cell_tables([edit.target for edit in TRIPLES])
    turns = len(of("turn"))
    assert turns > 20
    assert len(edits_per_sample(target, TABLES, part="changed")) == N - turns
    assert len(edits_per_sample(target, TABLES, part="done")) == N - turns
    assert len(edits_per_sample(target, TABLES, part="all_kept")) == N
    with pytest.raises(UserError, match="at least 1 edit it can be judged of"):
        edit_accuracy(target, TABLES, part="changed", kind="turn")


def test_the_baseline_is_the_unedited_source():
    target = cell_tables([edit.target for edit in TRIPLES])
    for part, kept in (("changed", 0), ("kept", 1)):
        m = METRICS["edit_accuracy"].measure(
            target, TABLES, stamp=Stamp("d", N), part=part, resamples=5
        )
        assert (m.value, m.baseline) == (1, kept)
        assert m.stamp.detail["chance"] == "the source, unedited"


def other(scene, slot, factor):
    """The scene with one factor of a slot (or the background) changed to what no object has."""
    if factor == "background":
        return replace(scene, background=(scene.background + 1) % 4)
    item, mate = scene.slots[slot], scene.slots[1 - slot]
    if factor == "position":
        taken = {item.cell, mate and mate.cell}
        new = replace(item, cell=next(c for c in CELLS if c not in taken))
    elif factor == "size":
        new = replace(item, size=(item.size + 1) % 3)
    else:
        known = {getattr(item, factor), mate and getattr(mate, factor)}
        count = len(SHAPES if factor == "shape" else COLORS)
        free = next(k for k in range(count) if k not in known)
        new = replace(item, **{factor: free})
    return replace(scene, slots=(new, mate) if slot == 0 else (mate, new))


@pytest.mark.parametrize("factor", ["shape", "color", "size", "position", "background"])
def test_what_was_not_kept_costs_its_factor_alone(factor):
    edits = of("color" if factor != "color" else "size")
    spoiled = [other(e.target, e.slot, factor) for e in edits]
    assert value(spoiled, edits, "changed") == 1
    assert value(spoiled, edits, "all_kept") == value(spoiled, edits, "done") == 0
    for each in FACTORS:
        assert value(spoiled, edits, f"kept_{each}") == (each != factor), each
    lost = [1 / (sum(not n.endswith("turn") for n in e.untouched) + 1) for e in edits]
    assert value(spoiled, edits, "kept") == pytest.approx(1 - sum(lost) / len(lost))


@pytest.mark.parametrize("kind", ["shape", "color", "size", "position", "background"])
def test_another_change_than_the_asked_one_is_none(kind):
    """The attribute did change, but not to what was asked."""
    edits = of(kind)
    spoiled = [other(e.target, max(e.slot, 0), kind) for e in edits]
    assert value(spoiled, edits, "changed") == 0
    assert value(spoiled, edits, "all_kept") == 1


def test_the_wrong_object_was_changed():
    edits = [e for e in of("color") if e.source.slots[1] is not None]
    spoiled = [other(e.source, 1 - e.slot, "color") for e in edits]
    assert value(spoiled, edits, "changed") == 0
    assert value(spoiled, edits, "kept_color") == 0
    assert value(spoiled, edits, "kept_shape") == 1


def test_adding():
    edits = of("add")
    for factor in ("shape", "color", "size", "position"):
        spoiled = [other(e.target, e.slot, factor) for e in edits]
        assert value(spoiled, edits, "changed") == 0, factor
        assert value(spoiled, edits, "all_kept") == 1, factor
    # the old object went: the new one is there all the same
    lost = [
        replace(e.target, slots=tuple(e.target.slots[k] if k == e.slot else None for k in (0, 1)))
        for e in edits
    ]
    assert value(lost, edits, "changed") == 1
    assert value(lost, edits, "kept_shape") == value(lost, edits, "done") == 0


def test_removing():
    edits = of("remove")
    wrong_one = [
        replace(e.source, slots=tuple(e.source.slots[k] if k == e.slot else None for k in (0, 1)))
        for e in edits
    ]
    assert value(wrong_one, edits, "changed") == value(wrong_one, edits, "all_kept") == 0
    recolored = [other(e.source, e.slot, "color") for e in edits]  # something still lies there
    assert value(recolored, edits, "changed") == 0
    moved = [other(e.source, e.slot, "position") for e in edits]  # it lies elsewhere
    assert value(moved, edits, "changed") == 0
    both = [replace(e.source, slots=(None, None)) for e in edits]
    assert value(both, edits, "changed") == 1 and value(both, edits, "all_kept") == 0


def test_an_object_that_nobody_asked_for_is_not_kept():
    edits = of("color")
    found = cell_tables([e.target for e in edits])
    for table in found:
        free = next(cell for cell in range(9) if table[1 + cell, 0] < 0)
        table[1 + free] = torch.tensor([0, 0, 0, free])
    tables = edit_tables(edits)
    assert edit_accuracy(found, tables, part="kept_count") == 0
    assert edit_accuracy(found, tables, part="all_kept") == 0
    assert edit_accuracy(found, tables, part="changed") == 1
    for factor in FACTORS[:-1]:
        assert edit_accuracy(found, tables, part=f"kept_{factor}") == 1


def test_refusals():
    target = cell_tables([edit.target for edit in TRIPLES])
    with pytest.raises(UserError, match=r"no 'kept_colour'.*'kept_color'"):
        edit_accuracy(target, TABLES, part="kept_colour")
    with pytest.raises(UserError, match=r"no 'colour'.*'color'"):
        edit_accuracy(target, TABLES, kind="colour")
    with pytest.raises(UserError, match=r"edits must be.*1 \+ 8"):
        edit_accuracy(target, target)
    with pytest.raises(UserError, match="same samples"):
        edit_accuracy(target[:3], TABLES)


class Oracle:
    name = "oracle"

    def __init__(self, tables):
        self.tables = tables

    def read(self, images):
        return self.tables[: len(images)]

    def fingerprint(self):
        return {"judge": self.name}


def test_the_card_has_all_parts_and_kinds_and_says_what_it_cannot_judge():
    oracle = Oracle(cell_tables([edit.target for edit in TRIPLES]))
    images = torch.zeros(N, 3, 64, 64)
    card = measure_edits(oracle, images, TRIPLES, stamp=Stamp("shapes64/val", 0), resamples=10)
    names = {m.name for m in card}
    assert {f"edit_accuracy_{part}" for part in ALL_PARTS} <= names
    for kind in KINDS:
        assert f"edit_accuracy_kept_when_{kind}" in names
        assert (f"edit_accuracy_changed_when_{kind}" in names) == (kind != "turn")
    assert list(card.not_measured) == ["edit_accuracy_changed_when_turn"]
    assert all(m.value == 1 for m in card)
    changed = card.get("edit_accuracy_changed")
    assert changed.stamp.detail["turns_left_out"] == len(of("turn")) == N - changed.stamp.count
    assert card.get("edit_accuracy_kept_when_add").stamp.count == len(of("add"))
    with pytest.raises(UserError, match="images and edits"):
        measure_edits(oracle, images[:9], TRIPLES, stamp=Stamp("d", 0))
