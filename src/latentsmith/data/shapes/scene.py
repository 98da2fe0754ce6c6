"""What a picture shows: one or two objects on a background, each factor known.

Coordinates are fractions of the image side, x to the right, y down. Named values do not touch:
sizes and positions are drawn from separate bands, so "small" and "top left" are never in doubt.
Two objects always lie two grid cells apart in a row or column and therefore never overlap,
whatever their sizes, and always differ in shape and in color, so "the red circle" is one object.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHAPES = ("circle", "ring", "half-circle", "triangle", "square", "hexagon", "star", "cross")
PERIOD = (0, 0, 360, 120, 90, 60, 72, 90)
"""Degrees after which a shape looks the same; 0: at any angle."""

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
COLOR_RGB = (
    (214, 39, 40),
    (34, 139, 34),
    (31, 81, 214),
    (247, 213, 29),
    (128, 40, 160),
    (255, 127, 14),
    (23, 190, 207),
    (247, 130, 190),
)
BACKGROUNDS = ("white", "light gray", "dark gray", "black")
BACKGROUND_RGB = ((255, 255, 255), (192, 192, 192), (80, 80, 80), (0, 0, 0))

SIZES = ("small", "medium", "large")
RADII = (0.08, 0.12, 0.17)
RADIUS_JITTER = 0.05
"""Relative: a medium radius lies in 0.12 ± 5 %."""

ROWS = ("top", "middle", "bottom")
COLS = ("left", "center", "right")
CENTERS = (0.22, 0.5, 0.78)
POSITION_JITTER = 0.04

CELLS = [(row, col) for row in range(3) for col in range(3)]
ITEM_DRAWS = 7
DRAWS = 3 + 2 * ITEM_DRAWS
"""Uniform numbers `draw_scene` uses."""


def apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether objects in two cells are sure not to overlap (centers at least 0.48 apart)."""
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 2


CELL_PAIRS = [(a, b) for a in CELLS for b in CELLS if apart(a, b)]


@dataclass(frozen=True)
class Item:
    """One object. Category fields are indices into the tables above."""

    shape: int
    color: int
    size: int
    cell: tuple[int, int]
    """Row and column of the 3×3 grid."""
    stretch: float
    """Radius relative to the size's nominal one, 1 ± RADIUS_JITTER."""
    shift: tuple[float, float]
    """x and y offset from the cell's center, at most ±POSITION_JITTER."""
    turn: float
    """Clockwise rotation in degrees, in [0, period); 0 for circle and ring."""

    @property
    def radius(self) -> float:
        """Of the circumscribed circle."""
        return RADII[self.size] * self.stretch

    @property
    def center(self) -> tuple[float, float]:
        """x, y of the circumscribed circle's center."""
        row, col = self.cell
        return CENTERS[col] + self.shift[0], CENTERS[row] + self.shift[1]


@dataclass(frozen=True)
class Scene:
    """A background and two slots; a slot may be empty, and keeps its number through edits."""

    background: int
    slots: tuple[Item | None, Item | None]

    def items(self) -> Iterator[tuple[int, Item]]:
        """Slot number and object of the filled slots."""
        return ((k, item) for k, item in enumerate(self.slots) if item is not None)


def pick(u: float, count: int) -> int:
    """A uniform number in [0, 1) → an index below ``count``."""
    return int(u * count)


def pick_other(u: float, count: int, *taken: int) -> int:
    """As `pick`, leaving out the ``taken`` indices."""
    left = [k for k in range(count) if k not in taken]
    return left[pick(u, len(left))]


def draw_item(u: Sequence[float], cell: tuple[int, int], other: Item | None) -> Item:
    """An object from `ITEM_DRAWS` uniform numbers, different in shape and color from ``other``."""
    shape = pick_other(u[0], len(SHAPES), *([other.shape] if other else []))
    return Item(
        shape=shape,
        color=pick_other(u[1], len(COLORS), *([other.color] if other else [])),
        size=pick(u[2], len(SIZES)),
        cell=cell,
        stretch=1 + RADIUS_JITTER * (2 * u[3] - 1),
        shift=(POSITION_JITTER * (2 * u[4] - 1), POSITION_JITTER * (2 * u[5] - 1)),
        turn=u[6] * PERIOD[shape],
    )


def draw_scene(u: Sequence[float], pairs: float) -> Scene:
    """A scene from `DRAWS` uniform numbers; a share of ``pairs`` has two objects."""
    background = pick(u[1], len(BACKGROUNDS))
    own, others = u[3 : 3 + ITEM_DRAWS], u[3 + ITEM_DRAWS : DRAWS]
    if u[0] >= pairs:
        return Scene(background, (draw_item(own, CELLS[pick(u[2], len(CELLS))], None), None))
    first, second = CELL_PAIRS[pick(u[2], len(CELL_PAIRS))]
    item = draw_item(own, first, None)
    return Scene(background, (item, draw_item(others, second, item)))
