"""The verdict table in the console: rich on a terminal, aligned plain text elsewhere."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Cell, Report, Table, Target
from latentsmith.reports.glossary import is_distance_correlation
from latentsmith.reports.marks import all_measurements
from latentsmith.reports.numbers import interval_text, number_text, value_text
from latentsmith.reports.page import write_report
from latentsmith.reports.verdicts import counts_text

_STYLE = {"go": "bold green", "no-go": "bold red", "not measured": "bold yellow"}
_SYMBOL = {"best": "★", "go": "✓", "no-go": "✗"}
_TERM = "Distance correlation: Pearson/Spearman r between pair distances (RSA, Mantel), i < j."


@dataclass(frozen=True)
class _Lines:
    """A table as text: heads, which columns are right-aligned, rows, a note under each row."""

    heads: list[str]
    right: list[bool]
    rows: list[list[str]]
    notes: list[str]


def publish(report: Report, folder: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into ``folder`` and print the verdict; returns the
    page. How every recipe and sweep ends."""
    page = write_report(folder, report)
    print_verdict(report, page)
    return page


def print_verdict(report: Report, path: Path | None = None, *, file: TextIO | None = None) -> None:
    """Print the targets with their verdicts, the overall verdict and, last, the page's path.

    A report without targets prints its first table instead (a comparison's runs and targets).

    Args:
        path: the page `write_report` returned; None prints no path.
        file: where to; stdout when None. Colours and lines only when it is a terminal.
    """
    out = sys.stdout if file is None else file
    lines = _lines(report)
    if out.isatty():
        _print_rich(report.title, lines, out)
    else:
        _print_plain(report.title, lines, out)
    if any(is_distance_correlation(m) for m in all_measurements(report)):
        print(_TERM, file=out)
    if report.verdict is not None:
        print(f"Verdict: {report.verdict} ({counts_text(report)}).", file=out)
    elif report.lead:
        print(report.lead.replace("`", ""), file=out)
    if path is not None:
        print(f"Report: {path}", file=out)


def _lines(report: Report) -> _Lines | None:
    if report.targets:
        heads = ["target", "value", "95 % interval", "baseline", "bar", "verdict"]
        right = [False, True, True, True, False, False]
        rows = [_target_row(t) for t in report.targets]
        return _Lines(heads, right, rows, [t.note for t in report.targets])
    tables = report.tables()
    return _table_lines(tables[0]) if tables else None


def _target_row(t: Target) -> list[str]:
    m = t.measurement
    return [
        t.name,
        "–" if m is None else value_text(m),
        "" if m is None else interval_text(m),
        "" if t.reference is None else value_text(t.reference),
        t.threshold,
        t.verdict,
    ]


def _table_lines(t: Table) -> _Lines:
    rows = [
        [f"{_SYMBOL.get(t.flags.get((i, j), ''), '')} {_cell(c)}".strip() for j, c in enumerate(r)]
        for i, r in enumerate(t.rows)
    ]
    heads = [c.replace("`", "") for c in t.columns]
    return _Lines(heads, [a == "right" for a in t.alignment()], rows, [""] * len(rows))


def _cell(cell: Cell) -> str:
    if isinstance(cell, Measurement):
        return f"{value_text(cell)} {interval_text(cell)}".strip()
    if isinstance(cell, int | float):
        return number_text(cell)
    return "–" if cell is None else cell.replace("`", "")


def _print_plain(title: str, lines: _Lines | None, out: TextIO) -> None:
    print(title, file=out)
    if lines is None:
        return
    widths = [max(map(len, column)) for column in zip(lines.heads, *lines.rows, strict=True)]

    def one(cells: Sequence[str]) -> str:
        aligned = zip(cells, widths, lines.right, strict=True)
        return "  " + "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in aligned).rstrip()

    print(one(lines.heads), file=out)
    for row, note in zip(lines.rows, lines.notes, strict=True):
        print(one(row), file=out)
        if note:
            print(f"      {note}", file=out)


def _print_rich(title: str, lines: _Lines | None, out: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=out, highlight=False)
    console.print(Text(title, style="bold"))
    if lines is None:
        return
    table = RichTable()
    for head, right in zip(lines.heads, lines.right, strict=True):
        table.add_column(escape(head), justify="right" if right else "left")
    for row, note in zip(lines.rows, lines.notes, strict=True):
        cells = [f"[{_STYLE[c]}]{c}[/]" if c in _STYLE else escape(c) for c in row]
        if note:
            cells[0] += f"\n[dim]{escape(note)}[/dim]"
        table.add_row(*cells)
    console.print(table)
