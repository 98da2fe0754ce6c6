"""The verdict table in the console: rich on a terminal, aligned plain text elsewhere."""

import sys
from pathlib import Path
from typing import TextIO

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Report, Target
from latentsmith.reports.glossary import is_distance_correlation
from latentsmith.reports.numbers import interval_text, value_text
from latentsmith.reports.verdicts import counts_text

_HEAD = ["target", "value", "95 % interval", "baseline", "bar", "verdict"]
_STYLE = {"go": "bold green", "no-go": "bold red", "not measured": "bold yellow"}
_TERM = "Distance correlation: Pearson/Spearman r between pair distances (RSA, Mantel), i < j."


def print_verdict(report: Report, path: Path | None = None, *, file: TextIO | None = None) -> None:
    """Print the targets with their verdicts, the overall verdict and, last, the page's path.

    Args:
        path: the page `write_report` returned; None prints no path.
        file: where to; stdout when None. Colours and lines only when it is a terminal.
    """
    out = sys.stdout if file is None else file
    if out.isatty():
        _print_rich(report, out)
    else:
        _print_plain(report, out)
    if any(is_distance_correlation(m) for m in _measured(report)):
        print(_TERM, file=out)
    if report.verdict is not None:
        print(f"Verdict: {report.verdict} ({counts_text(report)}).", file=out)
    if path is not None:
        print(f"Report: {path}", file=out)


def _measured(report: Report) -> list[Measurement]:
    return [t.measurement for t in report.targets if t.measurement is not None]


def _row(t: Target) -> list[str]:
    m = t.measurement
    return [
        t.name,
        "–" if m is None else value_text(m),
        "" if m is None else interval_text(m),
        "" if t.reference is None else value_text(t.reference),
        t.threshold,
        t.verdict,
    ]


def _print_plain(report: Report, out: TextIO) -> None:
    print(report.title, file=out)
    if not report.targets:
        return
    rows = [_HEAD, *(_row(t) for t in report.targets)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    for row, target in zip(rows, [None, *report.targets], strict=True):
        cells = [
            cell.rjust(w) if i in (1, 2, 3) else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip(), file=out)
        if target is not None and target.note:
            print(f"      {target.note}", file=out)


def _print_rich(report: Report, out: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, highlight=False)
    console.print(Text(report.title, style="bold"))
    if not report.targets:
        return
    table = Table()
    for i, head in enumerate(_HEAD):
        table.add_column(head, justify="right" if i in (1, 2, 3) else "left")
    for t in report.targets:
        name, *middle, verdict = map(escape, _row(t))
        if t.note:
            name += f"\n[dim]{escape(t.note)}[/dim]"
        table.add_row(name, *middle, f"[{_STYLE[t.verdict]}]{verdict}[/]")
    console.print(table)
