"""Scenes in words."""

from collections.abc import Callable

from latentsmith.data.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    Item,
    Scene,
    pick,
)

PLACES = (
    ("in the top left", "at the top", "in the top right"),
    ("on the left", "in the center", "on the right"),
    ("in the bottom left", "at the bottom", "in the bottom right"),
)
"""Indexed [row][col]."""
ALL = ("shape", "color", "size", "position")
"""The attributes of an object a caption can mention."""


def article(words: str) -> str:
    """ "red star" → "a red star", "orange star" → "an orange star"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def place(cell: tuple[int, int]) -> str:
    """Where a grid cell is: "in the top left", "in the center"…"""
    return PLACES[cell[0]][cell[1]]


def name(item: Item, *, size: bool = False) -> str:
    """ "red star", or with its size "small red star"."""
    words = f"{COLORS[item.color]} {SHAPES[item.shape]}"
    return f"{SIZES[item.size]} {words}" if size else words


def relation(a: Item, b: Item) -> str:
    """Where ``a`` is as seen from ``b``; the two lie two cells apart in a row or column."""
    (row_a, col_a), (row_b, col_b) = a.cell, b.cell
    if abs(col_a - col_b) == 2:
        return "to the left of" if col_a < col_b else "to the right of"
    return "above" if row_a < row_b else "below"


Template = tuple[Callable[[str, Item], str], tuple[str, ...]]
"""(background, object) → caption, and the attributes of the object it mentions."""

ONE: tuple[Template, ...] = (
    (lambda bg, a: f"{article(name(a, size=True))} {place(a.cell)} on a {bg} background", ALL),
    (
        lambda bg, a: f"there is {article(name(a, size=True))} {place(a.cell)} of a {bg} picture",
        ALL,
    ),
    (
        lambda bg, a: f"on a {bg} background, {article(name(a, size=True))} {place(a.cell)}",
        ALL,
    ),
    (
        lambda bg, a: f"{article(name(a, size=True))} on a {bg} background",
        ("shape", "color", "size"),
    ),
    (
        lambda bg, a: f"{article(name(a))} {place(a.cell)}, {bg} background",
        ("shape", "color", "position"),
    ),
)
"""The first three say everything."""

PairTemplate = tuple[Callable[[str, Item, Item], str], tuple[str, ...]]

TWO: tuple[PairTemplate, ...] = (
    (
        lambda bg, a, b: (
            f"{article(name(a, size=True))} {place(a.cell)} and {article(name(b, size=True))} "
            f"{place(b.cell)} on a {bg} background"
        ),
        ALL,
    ),
    (
        lambda bg, a, b: (
            f"on a {bg} background, {article(name(a, size=True))} {place(a.cell)} "
            f"{relation(a, b)} {article(name(b, size=True))} {place(b.cell)}"
        ),
        (*ALL, "relation"),
    ),
    (
        lambda bg, a, b: (
            f"{article(name(a, size=True))} {relation(a, b)} {article(name(b, size=True))} "
            f"on a {bg} background"
        ),
        ("shape", "color", "size", "relation"),
    ),
    (
        lambda bg, a, b: (
            f"{article(name(b))} with {article(name(a))} {relation(a, b)} it, {bg} background"
        ),
        ("shape", "color", "relation"),
    ),
)
"""The first two say everything."""

FULL_ONE, FULL_TWO = 3, 2


def caption(scene: Scene, u: float, *, full: bool) -> tuple[str, list[str]]:
    """A sentence about the scene, and what it mentions.

    Args:
        scene: one or two objects; with one, whichever slot it is in.
        u: uniform number that chooses the template.
        full: only templates that say everything but the rotation.

    Returns:
        The caption, and mentioned factors: ``["background", "object0.shape", …, "relation"]``.
    """
    bg = BACKGROUNDS[scene.background]
    items = list(scene.items())
    if len(items) == 1:
        ((_, item),) = items
        say, attributes = ONE[pick(u, FULL_ONE if full else len(ONE))]
        text = say(bg, item)
    else:
        (_, a), (_, b) = items
        tell, attributes = TWO[pick(u, FULL_TWO if full else len(TWO))]
        text = tell(bg, a, b)
    mentioned = ["background"]
    mentioned += [f"object{k}.{what}" for k, _ in items for what in attributes if what in ALL]
    return text, mentioned + [what for what in attributes if what not in ALL]
