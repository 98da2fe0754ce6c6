"""Edit triples: a scene, an instruction, the scene after it, and what must not have changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from latentsmith.data.shapes.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    ITEM_DRAWS,
    PERIOD,
    SHAPES,
    SIZES,
    Item,
    Scene,
    apart,
    draw_item,
    pick,
    pick_other,
)
from latentsmith.data.shapes.texts import article, name, place

DRAWS = 4 + ITEM_DRAWS
"""Uniform numbers `edit_scene` uses."""
ANGLES = (30, 45, 60, 90)


@dataclass(frozen=True)
class Edit:
    """One requested change. Slot numbers are the same in ``source`` and ``target``."""

    source: Scene
    target: Scene
    instruction: str
    attribute: str
    """What was asked to change: an object's ``shape``, ``color``, ``size``, ``position`` or
    ``turn``, the ``background``, or ``add`` / ``remove`` of an object."""
    slot: int
    """Whose attribute; -1 for the background."""

    @property
    def edited(self) -> str:
        """The requested change in one word: ``"object0.color"``, ``"object1.add"``,
        ``"background"``."""
        return self.attribute if self.slot < 0 else f"object{self.slot}.{self.attribute}"

    @property
    def untouched(self) -> list[str]:
        """Factors that must be the same before and after: ``["background", "object0.shape", …]``.

        A change of shape leaves out the rotation, which different shapes cannot share.
        """
        out = [] if self.attribute == "background" else ["background"]
        for k, _ in self.source.items():
            if k == self.slot and self.attribute == "remove":
                continue
            changed = {self.attribute} if k == self.slot else set()
            if "shape" in changed:
                changed.add("turn")
            kept = ("shape", "color", "size", "position", "turn")
            out += [f"object{k}.{what}" for what in kept if what not in changed]
        return out


def _put(scene: Scene, slot: int, item: Item | None) -> Scene:
    first, second = scene.slots
    return replace(scene, slots=(item, second) if slot == 0 else (first, item))


def _free_cells(other: Item | None, without: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Cells where an object cannot touch ``other``."""
    return [c for c in CELLS if c != without and (other is None or apart(c, other.cell))]


def _say(u: float, *phrases: str) -> str:
    return phrases[pick(u, len(phrases))]


def _background(scene: Scene, u: Sequence[float]) -> Edit:
    new = pick_other(u[2], len(BACKGROUNDS), scene.background)
    word = BACKGROUNDS[new]
    text = _say(u[3], f"make the background {word}", f"change the background to {word}")
    return Edit(scene, replace(scene, background=new), text, "background", -1)


def _of_item(scene: Scene, u: Sequence[float]) -> tuple[int, Item, Item | None]:
    """The object to change, chosen by u[1], its slot and the other object."""
    items = list(scene.items())
    slot, item = items[pick(u[1], len(items))]
    return slot, item, scene.slots[1 - slot]


def _color(scene: Scene, u: Sequence[float]) -> Edit:
    slot, item, other = _of_item(scene, u)
    new = pick_other(u[2], len(COLORS), item.color, *([other.color] if other else []))
    word, what = COLORS[new], name(item)
    text = _say(u[3], f"make the {what} {word}", f"change the color of the {what} to {word}")
    return Edit(scene, _put(scene, slot, replace(item, color=new)), text, "color", slot)


def _shape(scene: Scene, u: Sequence[float]) -> Edit:
    slot, item, other = _of_item(scene, u)
    new = pick_other(u[2], len(SHAPES), item.shape, *([other.shape] if other else []))
    turn = item.turn % PERIOD[new] if PERIOD[new] else 0.0
    word, what = article(SHAPES[new]), name(item)
    text = _say(u[3], f"turn the {what} into {word}", f"replace the {what} with {word}")
    target = _put(scene, slot, replace(item, shape=new, turn=turn))
    return Edit(scene, target, text, "shape", slot)


def _size(scene: Scene, u: Sequence[float]) -> Edit:
    slot, item, _ = _of_item(scene, u)
    new = pick_other(u[2], len(SIZES), item.size)
    word, what = SIZES[new], name(item)
    text = _say(u[3], f"make the {what} {word}", f"change the size of the {what} to {word}")
    return Edit(scene, _put(scene, slot, replace(item, size=new)), text, "size", slot)


def _position(scene: Scene, u: Sequence[float]) -> Edit:
    slot, item, other = _of_item(scene, u)
    cells = _free_cells(other, item.cell)
    cell = cells[pick(u[2], len(cells))]
    where, what = place(cell), name(item)
    text = _say(u[3], f"move the {what} so that it is {where}", f"put the {what} {where}")
    return Edit(scene, _put(scene, slot, replace(item, cell=cell)), text, "position", slot)


def _turn(scene: Scene, u: Sequence[float]) -> Edit:
    turnable = [(k, item) for k, item in scene.items() if PERIOD[item.shape]]
    slot, item = turnable[pick(u[1], len(turnable))]
    period = PERIOD[item.shape]
    angles = [angle for angle in ANGLES if angle % period]
    angle = angles[pick(u[2], len(angles))]
    what = name(item)
    text = _say(
        u[3],
        f"rotate the {what} by {angle} degrees clockwise",
        f"turn the {what} clockwise by {angle} degrees",
    )
    target = _put(scene, slot, replace(item, turn=(item.turn + angle) % period))
    return Edit(scene, target, text, "turn", slot)


def _add(scene: Scene, u: Sequence[float]) -> Edit:
    ((taken, other),) = scene.items()
    cells = _free_cells(other, None)
    item = draw_item(u[4:], cells[pick(u[2], len(cells))], other)
    what = f"{article(name(item, size=True))} {place(item.cell)}"
    text = _say(u[3], f"add {what}", f"draw {what}")
    return Edit(scene, _put(scene, 1 - taken, item), text, "add", 1 - taken)


def _remove(scene: Scene, u: Sequence[float]) -> Edit:
    slot, item, _ = _of_item(scene, u)
    text = _say(u[3], f"remove the {name(item)}", f"delete the {name(item)}")
    return Edit(scene, _put(scene, slot, None), text, "remove", slot)


EDITS: dict[str, Callable[[Scene, Sequence[float]], Edit]] = {
    "color": _color,
    "shape": _shape,
    "size": _size,
    "position": _position,
    "turn": _turn,
    "background": _background,
    "add": _add,
    "remove": _remove,
}


def possible(scene: Scene) -> list[str]:
    """The edits that make sense for a scene, in the order of `EDITS`.

    Circles and rings cannot be seen to turn; an object beside one in the central cell could
    touch it, so none is added there.
    """
    items = [item for _, item in scene.items()]
    out = ["color", "shape", "size", "position"]
    if any(PERIOD[item.shape] for item in items):
        out.append("turn")
    out.append("background")
    if len(items) == 2:
        out.append("remove")
    elif _free_cells(items[0], None):
        out.append("add")
    return [kind for kind in EDITS if kind in out]


def edit_scene(scene: Scene, u: Sequence[float]) -> Edit:
    """One edit from `DRAWS` uniform numbers; all kinds that make sense are equally likely."""
    kinds = possible(scene)
    return EDITS[kinds[pick(u[0], len(kinds))]](scene, u)
