"""Attribute accuracy, with readings that are known: tables against plain loops, every factor
spoiled alone, objects in any order, captions that leave things out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.shapes.factors import factor_tensors
from latentsmith.data.shapes.scene import BACKGROUNDS, CELLS, COLORS, SHAPES, SIZES, Item, Scene
from latentsmith.data.shapes.texts import relation
from latentsmith.errors import UserError
from latentsmith.metrics.attribute_accuracy import ALL_PARTS, attribute_accuracy
from latentsmith.metrics.base import Stamp
from latentsmith.metrics.registry import METRICS
from latentsmith.metrics.shapes_card import measure_attributes
from latentsmith.metrics.shapes_judge.matching import PARTS, match, verdicts
from latentsmith.metrics.shapes_judge.tables import (
    RELATIONS,
    asked_tables,
    cell_tables,
    scene_tables,
)

N = 600


def data(captions="mixed", pairs=0.5):
    return ShapesConfig(train_count=N, captions=captions, pairs=pairs).build("train", Path())


def told(dataset, count=N):
    batch = dataset.gather(torch.arange(count))
    return dataset.scenes(torch.arange(count)), batch["mentions"]


def item(shape=0, color=0, size=0, cell=(0, 0)):
    return Item(shape, color, size, cell, 1.0, (0.0, 0.0), 0.0)


RED_CIRCLE, GREEN_RING = item(0, 0, 0, (0, 0)), item(1, 1, 1, (2, 2))
BOTH = ["object0.shape", "object0.color", "object1.shape", "object1.color"]


def naive_cells(scene):
    rows = [[scene.background, sum(s is not None for s in scene.slots), -1, -1]]
    for cell in CELLS:
        here = [s for s in scene.slots if s is not None and s.cell == cell]
        row, col = cell
        rows.append(
            [here[0].shape, here[0].color, here[0].size, 3 * row + col] if here else [-1] * 4
        )
    return rows


def test_tables_are_a_plain_loop():
    scenes, _ = told(data())
    assert cell_tables(scenes).tolist() == [naive_cells(s) for s in scenes]
    for table, scene in zip(scene_tables(scenes).tolist(), scenes, strict=True):
        (background, count, related, nothing), *slots = table
        a, b = scene.slots
        assert (background, nothing) == (scene.background, -1)
        assert count == 1 + (b is not None)
        assert related == (RELATIONS.index(relation(a, b)) if b else -1)
        for row, here in zip(slots, scene.slots, strict=True):
            cell = here and 3 * here.cell[0] + here.cell[1]
            assert row == ([here.shape, here.color, here.size, cell] if here else [-1] * 4)


def test_factors_serve_as_well_as_scenes():
    scenes, mentions = told(data())
    factors = factor_tensors(scenes)
    assert torch.equal(scene_tables(scenes), scene_tables(factors))
    assert torch.equal(asked_tables(scenes, mentions), asked_tables(factors, mentions))


def test_what_a_caption_leaves_out_is_not_asked():
    scenes, mentions = told(data())
    asked = asked_tables(scenes, mentions).tolist()
    names = ("shape", "color", "size", "position")
    for table, names_of in zip(asked, mentions, strict=True):
        found = ["background"] if table[0][0] >= 0 else []
        found += [
            f"object{k}.{name}"
            for k in (0, 1)
            for name, value in zip(names, table[1 + k], strict=True)
            if value >= 0
        ]
        assert sorted(found + (["relation"] if table[0][2] >= 0 else [])) == sorted(names_of)
    assert any("relation" not in m for m in mentions)
    assert any("object0.position" not in m for m in mentions)


@pytest.mark.parametrize("captions", ["full", "mixed"])
def test_what_is_shown_is_right_and_other_captions_are_near_chance(captions):
    scenes, mentions = told(data(captions))
    found, asked = cell_tables(scenes), asked_tables(scenes, mentions)
    for part in ALL_PARTS:
        m = METRICS["attribute_accuracy"].measure(
            found, asked, stamp=Stamp("d", N), part=part, resamples=50
        )
        assert m.value == 1 and m.interval == (1, 1)
    others = {part: attribute_accuracy(found, asked.roll(1, 0), part=part) for part in ALL_PARTS}
    assert others["joint"] < 0.01
    assert others["background"] == pytest.approx(1 / len(BACKGROUNDS), abs=0.06)
    assert others["count"] == pytest.approx(0.5, abs=0.06)
    assert others["shape"] < 0.3 and others["color"] < 0.3 and others["size"] < 0.35


def test_the_baseline_is_that_of_other_captions():
    scenes, mentions = told(data())
    found, asked = cell_tables(scenes), asked_tables(scenes, mentions)
    m = METRICS["attribute_accuracy"].measure(
        found, asked, stamp=Stamp("d", N), part="background", resamples=5
    )
    assert m.baseline == pytest.approx(0.25, abs=0.03)


def spoiled(scene, part):
    """The scene with one thing wrong, nothing else."""
    a, b = scene.slots
    if part == "background":
        return replace(scene, background=(scene.background + 1) % len(BACKGROUNDS))
    if part == "shape":
        free = next(k for k in range(len(SHAPES)) if k not in (a.shape, b and b.shape))
        return replace(scene, slots=(replace(a, shape=free), b))
    if part == "color":
        free = next(k for k in range(len(COLORS)) if k not in (a.color, b and b.color))
        return replace(scene, slots=(replace(a, color=free), b))
    if part == "size":
        return replace(scene, slots=(replace(a, size=(a.size + 1) % len(SIZES)), b))
    if part == "position":  # moved so that relations stay: along the line on which they do not lie
        taken = {a.cell, b and b.cell}
        for cell in CELLS:
            still = b is None or relation_holds(cell, b.cell) == relation_holds(a.cell, b.cell)
            if cell not in taken and still:
                return replace(scene, slots=(replace(a, cell=cell), b))
    raise AssertionError(part)


def relation_holds(a, b):
    return [a[1] < b[1], a[1] > b[1], a[0] < b[0], a[0] > b[0]]


@pytest.mark.parametrize("part", ["background", "shape", "color", "size", "position"])
def test_a_factor_that_is_wrong_costs_itself_and_the_whole(part):
    scenes, _ = told(data("full"))
    asked = scene_tables(scenes)
    found = cell_tables([spoiled(s, part) for s in scenes])
    for each in ALL_PARTS:
        value = attribute_accuracy(found, asked, part=each)
        assert value == (0 if each in (part, "joint") else 1), each


def test_a_missing_and_an_additional_object():
    one, two = Scene(0, (RED_CIRCLE, None)), Scene(0, (RED_CIRCLE, GREEN_RING))
    more = attribute_accuracy(cell_tables([two]), scene_tables([one]), part="joint")
    assert more == 0
    for part in ("shape", "color", "size", "position", "background"):
        assert attribute_accuracy(cell_tables([two]), scene_tables([one]), part=part) == 1
        less = attribute_accuracy(cell_tables([one]), scene_tables([two]), part=part)
        assert less == (part == "background")
    assert attribute_accuracy(cell_tables([two]), scene_tables([one]), part="count") == 0
    assert attribute_accuracy(cell_tables([one]), scene_tables([two]), part="relation") == 0
    nothing = torch.full((1, 10, 4), -1)
    right, _ = verdicts(nothing, scene_tables([two]))
    assert not right.any()


def test_slots_may_come_in_any_order():
    scenes, mentions = told(data(pairs=1.0), 200)
    swapped = [replace(s, slots=s.slots[::-1]) for s in scenes]
    asked = asked_tables(scenes, mentions)
    # by slot, as a reader might number them, and by cell
    for found in (scene_tables(swapped), cell_tables(swapped)):
        assert attribute_accuracy(found, asked) == 1
        chosen = match(found, asked)
        assert (chosen.sort(1).values[:, 0] > 0).all() and (chosen[:, 0] != chosen[:, 1]).all()


def test_without_a_place_objects_go_where_most_is_right():
    scene = Scene(0, (RED_CIRCLE, GREEN_RING))
    asked = asked_tables([scene], [["background", *BOTH]])
    moved = Scene(0, (replace(RED_CIRCLE, cell=(2, 2)), replace(GREEN_RING, cell=(0, 0))))
    assert attribute_accuracy(cell_tables([moved]), asked) == 1
    # with the place asked, whatever lies there is the object
    right, _ = verdicts(cell_tables([moved]), scene_tables([scene]))
    named = dict(zip(PARTS, right[0].tolist(), strict=True))
    assert named["position"] and not named["shape"] and not named["color"]


def test_the_relation_is_read_off_the_matched_objects():
    left = Scene(0, (item(0, 0, 0, (1, 0)), item(1, 1, 0, (1, 2))))
    asked = asked_tables([left], [["background", *BOTH, "relation"]])
    right = replace(left, slots=(item(0, 0, 0, (1, 2)), item(1, 1, 0, (1, 0))))
    assert attribute_accuracy(cell_tables([left]), asked, part="relation") == 1
    assert attribute_accuracy(cell_tables([right]), asked, part="relation") == 0
    for part in ("shape", "color"):
        assert attribute_accuracy(cell_tables([right]), asked, part=part) == 1
    # one column apart still is "to the left of"
    near = replace(left, slots=(item(0, 0, 0, (0, 1)), item(1, 1, 0, (2, 2))))
    assert attribute_accuracy(cell_tables([near]), asked) == 1


@pytest.mark.parametrize("places", [((0, 1), (2, 1)), ((2, 1), (0, 1)), ((1, 2), (1, 0))])
def test_between_equals_the_relation_decides(places):
    """Half of each asked object is in each found one; only one way round the relation holds."""
    asked = asked_tables(
        [Scene(0, (item(0, 0, 0, places[0]), item(1, 1, 0, places[1])))],
        [["background", *BOTH, "relation"]],
    )
    for first, second in [places, places[::-1]]:
        found = cell_tables([Scene(0, (item(0, 1, 0, first), item(1, 0, 0, second)))])
        assert attribute_accuracy(found, asked, part="relation") == 1


def test_one_object_is_not_two():
    """A green circle has half of the red circle and half of the green ring, and is one of them."""
    scene = Scene(0, (item(0, 0, 0, (0, 0)), item(1, 1, 0, (2, 2))))
    asked = asked_tables([scene], [["background", *BOTH]])
    chosen = match(cell_tables([Scene(0, (item(0, 1, 0, (1, 1)), None))]), asked)
    assert sorted(chosen[0].tolist()) == [0, 5]


def test_refusals():
    scenes, mentions = told(data(), 4)
    found, asked = cell_tables(scenes), asked_tables(scenes, mentions)
    with pytest.raises(UserError, match=r"no part 'shapes'.*'shape'"):
        attribute_accuracy(found, asked, part="shapes")
    with pytest.raises(UserError, match=r"asked_scenes must be.*1 \+ 2, 4"):
        attribute_accuracy(found, found)
    with pytest.raises(UserError, match="found_scenes must be an integer tensor"):
        attribute_accuracy(found.float(), asked)
    with pytest.raises(UserError, match="same samples"):
        attribute_accuracy(found[:3], asked)
    single = Scene(0, (RED_CIRCLE, None))
    with pytest.raises(UserError, match="at least 1 image whose caption mentions it"):
        attribute_accuracy(cell_tables([single]), scene_tables([single]), part="relation")
    with pytest.raises(UserError, match=r"no factor 'object0.turn'"):
        asked_tables([single], [["object0.turn"]])
    for mentioned in (["object0.shape", "object1.shape"], ["object0.shape", "relation"]):
        with pytest.raises(UserError, match="scene 0 does not have"):
            asked_tables([single], [mentioned])
    with pytest.raises(UserError, match="an object not named"):
        asked_tables([single], [["background"]])
    with pytest.raises(UserError, match="1 lists of mentioned factors for 4 scenes"):
        asked_tables(scenes, [["background"]])


class Oracle:
    """Reads what it is told to."""

    name = "oracle"

    def __init__(self, tables):
        self.tables = tables

    def read(self, images):
        return self.tables[: len(images)]

    def fingerprint(self):
        return {"judge": self.name, "judge_joint": 1.0}


def test_the_card_has_every_part_and_how_many_asked_for_it():
    scenes, mentions = told(data(), 80)
    card = measure_attributes(
        Oracle(cell_tables(scenes)),
        torch.zeros(80, 3, 64, 64),
        factor_tensors(scenes),
        mentions,
        stamp=Stamp("shapes64/val", 0, sampler="euler", steps=20),
        resamples=20,
    )
    assert [m.name for m in card] == [f"attribute_accuracy_{part}" for part in ALL_PARTS]
    assert all(m.value == 1 and m.baseline < 0.7 for m in card)
    found = card.get("attribute_accuracy_relation")
    assert found.stamp.count == sum("relation" in m for m in mentions)
    assert card.get("attribute_accuracy_joint").stamp.count == 80
    assert (found.stamp.space, found.stamp.steps) == ("oracle", 20)
    assert found.stamp.detail["judge_joint"] == 1.0


def test_the_card_says_what_nobody_asked_for():
    scenes, mentions = told(data(pairs=0.0), 10)
    images = torch.zeros(10, 3, 64, 64)
    oracle = Oracle(cell_tables(scenes))
    card = measure_attributes(oracle, images, scenes, mentions, stamp=Stamp("d", 0))
    assert list(card.not_measured) == ["attribute_accuracy_relation"]
    with pytest.raises(UserError, match="images and captions"):
        measure_attributes(oracle, images[:9], scenes, mentions, stamp=Stamp("d", 0))
