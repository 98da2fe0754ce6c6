"""A report's tables as Markdown, for pages that lie beside the code."""

from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Cell, Table
from latentsmith.reports.numbers import interval_text, number_text, value_text


def markdown_table(table: Table) -> str:
    """Caption, then a pipe table; measurements with their intervals."""
    align = ["---:" if a == "right" else "---" for a in table.alignment()]
    rows = [[_text(cell) for cell in row] for row in table.rows]
    lines = [table.columns, align, *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table.caption}\n\n{body}\n" if table.caption else f"{body}\n"


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Measurement):
        return f"{value_text(cell)} {interval_text(cell)}".strip()
    if isinstance(cell, bool | str):
        return str(cell).replace("|", "\\|")
    return number_text(cell)
