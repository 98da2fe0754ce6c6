"""What a report is made of, before anything is written."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from latentsmith.metrics.base import Measurement

Verdict = Literal["go", "no-go", "not measured"]
Align = Literal["left", "right"]
Flag = Literal["best", "go", "no-go", "not measured"]
Rule = Literal["", "above", "below", "within", "beats"]

Cell = str | int | float | bool | None | Measurement
"""One table cell. A `Measurement` is printed with its interval and a mark for its protocol."""

_SUFFIX = {"image/png": ".png", "image/svg+xml": ".svg"}


@dataclass(frozen=True)
class Target:
    """One row of the go/no-go table. `latentsmith.reports.verdicts` makes them from measurements.

    ``rule``, ``bound`` and ``reference`` are the comparison behind ``verdict``, kept so that a
    comparison of runs can draw it; a hand-made target may leave them empty.
    """

    name: str
    meaning: str
    """One sentence: what the number says, for a reader who has not met it."""
    measurement: Measurement | None
    threshold: str
    """The bar in words: ``> 0.8``, ``at least 98 % of 24.9 dB``."""
    verdict: Verdict
    note: str = ""
    """Why the verdict is what it is, where the numbers alone do not show it."""
    required: bool = True
    """Counts towards the report's verdict."""
    rule: Rule = ""
    bound: float | None = None
    """The bar as a number, in the measurement's unit."""
    reference: Measurement | None = None
    """What it is compared with, when that is itself measured."""


@dataclass(frozen=True)
class Table:
    """Rows under column heads. Columns whose cells are all numbers are right-aligned by default."""

    columns: list[str]
    rows: list[list[Cell]]
    caption: str = ""
    align: list[Align] | None = None
    flags: dict[tuple[int, int], Flag] = field(default_factory=dict)
    """(row, column) → "best", or a verdict, shown beside the cell."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {row!r} does not have the {len(self.columns)} columns")
        if self.align is not None and len(self.align) != len(self.columns):
            raise ValueError(f"align has {len(self.align)} entries for {len(self.columns)} columns")

    def alignment(self) -> list[Align]:
        """``align``, or right for columns that hold numbers only."""
        if self.align is not None:
            return self.align
        return [self._column_align(i) for i in range(len(self.columns))]

    def _column_align(self, i: int) -> Align:
        cells = [row[i] for row in self.rows if row[i] is not None]
        number = (int, float, Measurement)
        return "right" if cells and all(isinstance(c, number) for c in cells) else "left"


@dataclass(frozen=True)
class Figure:
    """A picture as bytes: PNG for dense content, SVG for curves (`plots.to_figure` makes both)."""

    data: bytes
    caption: str
    alt: str
    """What a reader who cannot see it should know."""
    media: Literal["image/png", "image/svg+xml"] = "image/png"
    wide: bool = True
    """Takes the page's whole width; otherwise two stand side by side."""
    width: int | None = None
    """Shown at most this wide, in CSS pixels; None: the picture's own pixels."""
    missing: str = ""
    """Name of the picture's file when it was not found on loading; ``data`` is then empty."""

    def file_name(self) -> str:
        """``fig-<digest>.png``: the same picture has the same name."""
        if self.missing:
            return self.missing
        return f"fig-{hashlib.sha256(self.data).hexdigest()[:16]}{_SUFFIX[self.media]}"


@dataclass(frozen=True)
class Section:
    """A heading, prose (blank lines part paragraphs, `` `code` `` is set as code), then items."""

    title: str
    text: str = ""
    items: list[Table | Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything a page and its ``report.json`` show.

    ``measurements`` holds every number of the run by *arm* (``"baseline"``, ``"regularized"``);
    the page closes with them as one table, and `runs.compare` compares runs by them.
    """

    title: str
    subtitle: str = ""
    lead: str = ""
    """The finding in one or two sentences."""
    targets: list[Target] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    measurements: dict[str, list[Measurement]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    """The run's resolved config."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """Versions, hardware, git state, fingerprints."""
    run: str = ""
    """The run folder, as text."""
    kind: str = "report"
    """What the page calls itself: "report", "comparison", "latent-space card"."""

    @property
    def verdict(self) -> Verdict | None:
        """The targets' overall verdict (see `overall`)."""
        return overall(self.targets)

    def tables(self) -> list[Table]:
        """All tables of all sections, in order."""
        return [i for s in self.sections for i in s.items if isinstance(i, Table)]

    def figures(self) -> list[Figure]:
        """All figures of all sections, in order."""
        return [i for s in self.sections for i in s.items if isinstance(i, Figure)]


def overall(targets: list[Target]) -> Verdict | None:
    """Go only if every required target is go; one no-go decides; None without required targets."""
    verdicts = [t.verdict for t in targets if t.required]
    if not verdicts:
        return None
    if "no-go" in verdicts:
        return "no-go"
    return "not measured" if "not measured" in verdicts else "go"
