"""Captioned shapes: pure functions of the index, true captions, exact pictures, honest edits."""

import itertools
import math
import re

import pytest
import torch

from latentsmith.data.shapes import ShapesConfig, edits, render, scene, texts
from latentsmith.data.shapes.factors import factor_tensors, factor_vectors, factor_words
from latentsmith.data.shapes.scene import Item, Scene

MANY = torch.arange(1500)


def build(split="train", **settings):
    return ShapesConfig(**settings).build(split, None)


@pytest.fixture(scope="module")
def scenes():
    return build().scenes(MANY)


@pytest.fixture(scope="module")
def triples():
    return build().edit_triples(MANY)


def item(shape="square", *, cell=(1, 1), size=2, turn=0.0, color=0):
    return Item(
        shape=scene.SHAPES.index(shape),
        color=color,
        size=size,
        cell=cell,
        stretch=1.0,
        shift=(0.0, 0.0),
        turn=turn,
    )


def alone(*args, background=3, **settings):
    return Scene(background, (item(*args, **settings), None))


# ---- samples are functions of (seed, split, index)


def test_a_sample_does_not_depend_on_its_batch():
    dataset = build(resolution=32, edits=True)
    batch = dataset.gather(torch.tensor([700, 3, 256, 3]))
    for row, index in enumerate((700, 3, 256, 3)):
        sample = dataset[index]
        for key in ("image", "target"):
            torch.testing.assert_close(sample[key], batch[key][row], rtol=0, atol=0)
        for key in ("caption", "instruction", "target_caption", "edited", "untouched", "mentions"):
            assert sample[key] == batch[key][row]
        assert sample["label"] == batch["label"][row]
        for name, value in sample["factors"].items():
            assert torch.equal(value, batch["factors"][name][row])


def test_count_split_and_seed():
    few, many = build(train_count=5, resolution=16), build(train_count=500, resolution=16)
    assert torch.equal(few[4]["image"], many[4]["image"])
    train, val = build().scenes(MANY[:200]), build("val").scenes(MANY[:200])
    assert not set(train) & set(val)
    assert build().scenes([0]) != build(seed=1).scenes([0])
    with pytest.raises(IndexError, match="sample 5 of 5"):
        few[5]


def test_edits_and_captions_do_not_change_the_images():
    plain = build(resolution=16)
    other = build(resolution=16, edits=True, captions="full", label="color")
    assert torch.equal(plain.gather(MANY[:9])["image"], other.gather(MANY[:9])["image"])


# ---- factors


def test_every_factor_value_occurs_about_equally_often(scenes):
    factors = factor_tensors(scenes)
    factors |= {k: v for k, v in build(pairs=0).factors(MANY).items() if k in ("row", "col")}
    for name, count in (("shape", 8), ("color", 8), ("size", 3), ("row", 3), ("col", 3)):
        share = factors[name][:, 0].bincount(minlength=count) / len(scenes)
        assert (share - 1 / count).abs().max() < 0.05, name
    share = factors["background"].bincount() / len(scenes)
    assert (share - 0.25).abs().max() < 0.05
    assert abs((factors["count"] == 2).float().mean() - 0.5) < 0.05
    assert (build(pairs=0).factors(MANY[:50])["count"] == 1).all()
    assert (build(pairs=1).factors(MANY[:50])["count"] == 2).all()


def test_named_values_come_from_separate_bands(scenes):
    items = [it for s in scenes for _, it in s.items()]
    radii = {size: [it.radius for it in items if it.size == size] for size in range(3)}
    assert max(radii[0]) < min(radii[1]) and max(radii[1]) < min(radii[2])
    xs = {col: [it.center[0] for it in items if it.cell[1] == col] for col in range(3)}
    assert max(xs[0]) < 0.3 < 0.4 < min(xs[1]) and max(xs[1]) < 0.6 < 0.7 < min(xs[2])
    for it in items:
        assert 0 <= it.turn < (scene.PERIOD[it.shape] or 1e-9)


def test_objects_stay_inside_and_apart_and_unlike(scenes, triples):
    for s in [*scenes, *(edit.target for edit in triples)]:
        items = [it for _, it in s.items()]
        for it in items:
            x, y = it.center
            assert it.radius <= min(x, y, 1 - x, 1 - y)
        if len(items) == 2:
            a, b = items
            assert math.dist(a.center, b.center) > a.radius + b.radius + 0.1
            assert a.shape != b.shape and a.color != b.color


def test_factor_tensors_mark_empty_slots():
    factors = factor_tensors([alone("star", turn=10.0)])
    assert factors["shape"].tolist() == [[6, -1]] and factors["count"].tolist() == [1]
    assert factors["turn"].tolist() == [[10.0, 0.0]] and factors["x"].tolist() == [[0.5, 0.0]]


def test_factor_vectors_move_as_far_as_the_factors():
    base = alone("square")
    moved = alone("square", cell=(1, 2))
    reshaped = alone("star")
    same = alone("square", turn=90.0)  # a square turned by its period
    vectors = factor_vectors([base, moved, reshaped, same])
    distance = (vectors - vectors[0]).norm(dim=1)
    assert distance[1] == pytest.approx(0.28)
    assert distance[2] == pytest.approx(1.0)
    assert distance[3] == pytest.approx(0.0, abs=1e-6)
    assert build().vectors([0, 1]).shape == vectors[:2].shape


def test_factor_words_read_well():
    assert factor_words(alone("half-circle", cell=(0, 2), turn=12.34)) == {
        "background": "black",
        "object0": {
            "shape": "half-circle",
            "color": "red",
            "size": "large",
            "position": "top right",
            "turn": 12.3,
        },
    }


# ---- pictures


def supersampled(shown, resolution, factor=16):
    """Coverage by counting which of ``factor``² points per pixel lie inside."""
    fine = render.masks([shown], resolution * factor)[0, 0] > 0.5
    return fine.float().view(resolution, factor, resolution, factor).mean((1, 3))


@pytest.mark.parametrize("shape", scene.SHAPES)
@pytest.mark.parametrize("turn", [0.0, 17.0])
def test_coverage_equals_supersampling(shape, turn):
    shown = alone(shape, turn=turn)
    ours, exact = render.masks([shown], 64)[0, 0], supersampled(shown, 64)
    assert (ours - exact).abs().mean() < 2e-3
    assert (ours - exact).abs().max() < 0.35  # at sharp corners
    assert ((ours > 0) & (ours < 1)).any()  # antialiased


EXACT_AREA = {
    "circle": math.pi,
    "ring": math.pi * (1 - 0.25),
    "triangle": 3 * math.sqrt(3) / 4,
    "square": 2.0,
    "hexagon": 3 * math.sqrt(3) / 2,
    "star": 10 * 0.5 * 0.45 * math.sin(math.pi / 5),
}


@pytest.mark.parametrize("shape", ["circle", "ring", "triangle", "square", "hexagon", "star"])
@pytest.mark.parametrize("resolution", [64, 256])
def test_areas_are_those_of_geometry(shape, resolution):
    area = render.masks([alone(shape, turn=11.0)], resolution)[0, 0].sum() / resolution**2
    assert area / 0.17**2 == pytest.approx(EXACT_AREA[shape], rel=0.015)


def test_area_of_the_cross():
    arm, half = math.sqrt(1 - 0.33**2), 0.33
    exact = 2 * (2 * arm) * (2 * half) - (2 * half) ** 2
    area = render.masks([alone("cross")], 256)[0, 0].sum() / 256**2
    assert area / 0.17**2 == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_shapes_lie_in_their_circle_and_touch_it(shape):
    mask = render.masks([alone(shape, turn=20.0)], 256)[0, 0]
    y, x = torch.meshgrid(torch.arange(256) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    reach = torch.hypot(x - 128, y - 128)[mask > 0.5].max() / 256
    assert 0.16 < reach < 0.173


@pytest.mark.parametrize("shape", scene.SHAPES)
def test_a_turn_by_the_period_changes_nothing_and_less_does(shape):
    period = scene.PERIOD[scene.SHAPES.index(shape)]
    base, full, half = render.masks(
        [alone(shape), alone(shape, turn=period or 33.0), alone(shape, turn=period / 2)], 64
    )[:, 0]
    assert (base - full).abs().max() < 1e-3
    if period:
        assert (base - half).abs().sum() > 5


def test_turns_are_clockwise_and_shapes_start_upright():
    up, right = render.masks([alone("triangle"), alone("triangle", turn=90.0)], 128)[:, 0]
    rows = up.sum(1).nonzero().flatten()
    assert up[rows[2]].sum() < up[rows[-3]].sum()  # the tip is above
    torch.testing.assert_close(right, up.rot90(-1), atol=1e-4, rtol=0)


def test_colors_background_and_position_are_as_told(scenes):
    resolution = 64
    images, masks = render.render(scenes[:300], resolution), render.masks(scenes[:300], resolution)
    assert images.shape == (300, 3, 64, 64) and images.dtype == torch.uint8
    for shown, image, mask in zip(scenes[:300], images, masks, strict=True):
        empty = mask.sum(0) == 0
        back = torch.tensor(scene.BACKGROUND_RGB[shown.background], dtype=torch.uint8)
        assert (image[:, empty] == back[:, None]).all()
        for slot in range(2):
            it = shown.slots[slot]
            assert (it is not None) == bool(mask[slot].any())
            if it is None:
                continue
            inside = mask[slot] == 1
            color = torch.tensor(scene.COLOR_RGB[it.color], dtype=torch.uint8)
            assert inside.any() and (image[:, inside] == color[:, None]).all()
            where = inside.nonzero().float().mean(0) / resolution
            assert abs(where[1] - it.center[0]) < 0.06 and abs(where[0] - it.center[1]) < 0.06
    assert (masks.sum(1) <= 1).all()  # never over each other


@pytest.mark.parametrize("resolution", [16, 17, 33])
def test_small_and_odd_resolutions(resolution):
    shown = build("val", resolution=resolution).gather(MANY[:64])["image"]
    assert shown.shape[-1] == resolution and shown.float().std() > 0


def test_mixed_edges_lie_between_the_two_colors():
    image = render.render([alone("circle")], 64)[0].float()
    mask = render.masks([alone("circle")], 64)[0, 0]
    red = torch.tensor(scene.COLOR_RGB[0]).float()
    torch.testing.assert_close(image, red[:, None, None] * mask, atol=0.51, rtol=0)


# ---- classes of pixels


def naive_segments(shown, resolution):
    """Each pixel center asked in turn, and each object in the order it is drawn."""
    out = torch.zeros(resolution, resolution, dtype=torch.int64)
    for row, col in itertools.product(range(resolution), repeat=2):
        for _, it in shown.items():
            x, y = (col + 0.5) / resolution - it.center[0], (row + 0.5) / resolution - it.center[1]
            back = math.radians(-it.turn)
            u, v = x * math.cos(back) - y * math.sin(back), x * math.sin(back) + y * math.cos(back)
            point = torch.tensor([[u, v]], dtype=torch.float64) / it.radius
            if render.OUTLINES[scene.SHAPES[it.shape]](point[:, 0], point[:, 1]) < 0:
                out[row, col] = 1 + it.shape
    return out


def test_every_pixel_has_the_class_of_what_covers_its_center(scenes):
    dataset = build(resolution=24)
    found = dataset.segments(MANY[:24])
    assert found.shape == (24, 24, 24) and found.dtype == torch.int64
    assert torch.equal(found, torch.stack([naive_segments(s, 24) for s in scenes[:24]]))
    assert dataset.segment_names[0] == "background" and len(dataset.segment_names) == 9
    assert dataset.segment_names[1:] == list(scene.SHAPES)
    assert found.unique().tolist() == list(range(9))


def test_the_object_on_top_has_the_pixel():
    """No drawn scene has one object over another; one made by hand may."""
    below, above = item("circle", color=0), item("square", size=0, color=2)
    shown = [Scene(3, (below, above)), Scene(3, (above, below))]
    found, images = render.segments(shown, 64), render.render(shown, 64)
    assert found[0, 32, 32] == 1 + scene.SHAPES.index("square")
    assert found[1, 32, 32] == 1 + scene.SHAPES.index("circle")
    palette = torch.tensor([(0, 0, 0), scene.COLOR_RGB[0], scene.COLOR_RGB[2]])
    far = torch.cdist(images.flatten(2).mT.float(), palette.float()[None])  # [2, P, 3]
    kinds = torch.tensor([0, 1, 1 + scene.SHAPES.index("square")])
    seen = kinds[far.argmin(2)].view(2, 64, 64)
    clear = (far.min(2).values == 0).view(2, 64, 64)  # not an antialiased edge
    assert clear.float().mean() > 0.9 and torch.equal(found[clear], seen[clear])


# ---- captions


def test_captions_are_true_and_mention_what_they_say(scenes):
    for shown, u in itertools.product(scenes[:200], (0.0, 0.3, 0.5, 0.7, 0.99)):
        text, mentions = texts.caption(shown, u, full=False)
        assert (scene.BACKGROUNDS[shown.background] in text) and "background" in mentions
        for slot, it in shown.items():
            assert f"{scene.COLORS[it.color]} {scene.SHAPES[it.shape]}" in text
            assert {f"object{slot}.shape", f"object{slot}.color"} <= set(mentions)
            sized = f"{scene.SIZES[it.size]} {scene.COLORS[it.color]} {scene.SHAPES[it.shape]}"
            assert (sized in text) == (f"object{slot}.size" in mentions)
            placed = re.search(f"{scene.SHAPES[it.shape]} {texts.place(it.cell)}\\b", text)
            assert bool(placed) == (f"object{slot}.position" in mentions)
        related = any(w in text for w in ("to the left of", "to the right of", "above", "below"))
        assert related == ("relation" in mentions)
        assert not re.search(r"\ba [aeiou]", text) and not re.search(r"\ban [^aeiou]", text)


def test_full_captions_say_everything(scenes):
    for shown, u in itertools.product(scenes[:100], (0.0, 0.4, 0.9)):
        _, mentions = texts.caption(shown, u, full=True)
        for slot, _ in shown.items():
            assert {f"object{slot}.{what}" for what in texts.ALL} <= set(mentions)
        assert "background" in mentions


def test_relations():
    assert texts.relation(item(cell=(0, 0)), item(cell=(1, 2))) == "to the left of"
    assert texts.relation(item(cell=(2, 2)), item(cell=(0, 0))) == "to the right of"
    assert texts.relation(item(cell=(0, 1)), item(cell=(2, 0))) == "above"
    assert texts.relation(item(cell=(2, 1)), item(cell=(0, 1))) == "below"


def test_every_template_can_be_drawn():
    one = alone("square")
    two = Scene(0, (item("circle", cell=(0, 0)), item("star", cell=(2, 2), color=1)))
    draws = [k / 100 for k in range(100)]
    for shown, templates, full in ((one, texts.ONE, 3), (two, texts.TWO, 2)):
        assert len({texts.caption(shown, u, full=False)[0] for u in draws}) == len(templates)
        assert len({texts.caption(shown, u, full=True)[0] for u in draws}) == full


# ---- edits


def attributes(shown, slot):
    it = shown.slots[slot]
    return {
        "shape": it.shape,
        "color": it.color,
        "size": (it.size, it.stretch),
        "position": (it.cell, it.shift),
        "turn": it.turn,
    }


def test_only_the_requested_attribute_changes(triples):
    for edit in triples:
        assert edit.source != edit.target
        for name in edit.untouched:
            if name == "background":
                assert edit.source.background == edit.target.background
                continue
            slot, what = int(name[6]), name.split(".")[1]
            assert attributes(edit.source, slot)[what] == attributes(edit.target, slot)[what]
        if edit.attribute in ("shape", "color", "size", "position", "turn"):
            before, after = (attributes(s, edit.slot) for s in (edit.source, edit.target))
            changed = {what for what in before if before[what] != after[what]}
            assert edit.attribute in changed
            assert changed <= {edit.attribute} | ({"turn"} if edit.attribute == "shape" else set())
            assert f"object{edit.slot}.{edit.attribute}" == edit.edited
            assert edit.edited not in edit.untouched


def test_untouched_and_edited_cover_every_factor(triples):
    for edit in triples:
        expected = {"background"} | {
            f"object{slot}.{what}"
            for slot, _ in edit.source.items()
            for what in ("shape", "color", "size", "position", "turn")
        }
        left = expected - set(edit.untouched)
        if edit.attribute == "remove":
            assert left == {n for n in expected if n.startswith(f"object{edit.slot}.")}
        elif edit.attribute == "add":
            assert not left
        elif edit.attribute == "shape":
            assert left == {edit.edited, f"object{edit.slot}.turn"}
        else:
            assert left == {edit.edited}


def test_pixels_outside_the_edited_object_stay(triples):
    some = [edit for edit in triples[:300] if edit.attribute != "background"]
    before, after = (
        render.render([getattr(edit, side) for edit in some], 32) for side in ("source", "target")
    )
    masks = torch.stack(
        [render.masks([getattr(e, side) for e in some], 32) for side in ("source", "target")]
    )
    for k, edit in enumerate(some):
        touched = masks[:, k, edit.slot].amax(0) > 0
        assert torch.equal(before[k][:, ~touched], after[k][:, ~touched])
        assert not torch.equal(before[k], after[k])


def test_every_kind_of_edit_occurs_and_says_what_it_does(triples):
    kinds = {kind: [e for e in triples if e.attribute == kind] for kind in edits.EDITS}
    assert all(len(found) > 60 for found in kinds.values())
    for edit in kinds["color"]:
        assert scene.COLORS[edit.target.slots[edit.slot].color] in edit.instruction
    for edit in kinds["shape"]:
        assert scene.SHAPES[edit.target.slots[edit.slot].shape] in edit.instruction
    for edit in kinds["size"]:
        assert scene.SIZES[edit.target.slots[edit.slot].size] in edit.instruction
    for edit in kinds["position"]:
        assert edit.instruction.endswith(texts.place(edit.target.slots[edit.slot].cell))
    for edit in kinds["background"]:
        assert scene.BACKGROUNDS[edit.target.background] in edit.instruction
    for edit in kinds["turn"]:
        a, b = (s.slots[edit.slot] for s in (edit.source, edit.target))
        angle = int(re.search(r"\d+", edit.instruction)[0])
        period = scene.PERIOD[a.shape]
        assert (a.turn + angle - b.turn) % period == pytest.approx(0, abs=1e-6)
        assert angle % period
    for edit in kinds["add"]:
        assert edit.source.slots[edit.slot] is None
        assert texts.name(edit.target.slots[edit.slot], size=True) in edit.instruction
    for edit in kinds["remove"]:
        assert edit.target.slots[edit.slot] is None
    for edit in triples:
        if edit.attribute not in ("background", "add"):
            assert texts.name(edit.source.slots[edit.slot]) in edit.instruction


def test_impossible_edits_are_not_asked_for():
    assert "turn" not in edits.possible(alone("circle"))
    assert "add" not in edits.possible(alone("square", cell=(1, 1)))
    assert "remove" not in edits.possible(alone("square"))
    two = Scene(0, (item("circle", cell=(0, 0)), item("star", cell=(2, 2), color=1)))
    assert edits.possible(two) == [k for k in edits.EDITS if k != "add"]


# ---- as a dataset


@pytest.mark.parametrize(
    ("label", "count"), [("shape", 8), ("color", 8), ("size", 3), ("background", 4), ("count", 2)]
)
def test_labels_are_the_chosen_factor(label, count):
    dataset = build(resolution=16, label=label, train_count=300)
    batch = dataset.gather(MANY[:300])
    assert len(dataset.classes) == count
    assert sorted(batch["label"].unique().tolist()) == list(range(count))
    factor = batch["factors"][label]
    expected = factor - 1 if label == "count" else factor if factor.dim() == 1 else factor[:, 0]
    assert torch.equal(batch["label"], expected)
    assert torch.equal(dataset.labels, expected)


def test_digest_sees_settings_and_split():
    settings = [{}, {"seed": 1}, {"resolution": 17}, {"pairs": 0.4}, {"edits": True}]
    settings += [{"captions": "full"}, {"label": "color"}, {"train_count": 50}]
    digests = [build(**({"resolution": 16} | s)).digest for s in settings]
    digests.append(build("val", resolution=16).digest)
    assert len(set(digests)) == len(digests)
    assert build(resolution=16).digest == digests[0]
