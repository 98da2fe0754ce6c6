"""Write a report: one HTML page that needs nothing else, and ``report.json`` beside it."""

import base64
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Cell, Figure, Report, Section, Table, Target, overall
from latentsmith.reports.glossary import DISTANCE_CORRELATION, explain, is_distance_correlation
from latentsmith.reports.marks import Marks, all_measurements
from latentsmith.reports.numbers import (
    chance_text,
    interval_text,
    number_text,
    stamp_text,
    value_text,
)
from latentsmith.reports.serialize import figures_folder, plain, report_from_json, report_to_json
from latentsmith.reports.strip import strip
from latentsmith.reports.tables import measurement_table
from latentsmith.reports.verdicts import RULES, counts_text
from latentsmith.utils.files import atomic_path, write_json

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "Figure",
    "Report",
    "Section",
    "Table",
    "Target",
    "load_report",
    "overall",
    "render",
    "write_report",
]


def write_report(folder: Path, report: Report, *, stem: str = "report") -> Path:
    """Write ``<stem>.html``, ``<stem>.json`` and ``<stem>-figures/`` into ``folder``.

    Each file is replaced atomically, pictures first, so that a crash leaves a readable older or
    newer report. The page holds its pictures itself; the folder is for reuse and re-rendering.

    Returns:
        The page's path.
    """
    folder = Path(folder)
    figures = folder / figures_folder(stem)
    wanted = {f.file_name(): f.data for f in report.figures()}
    for name, data in wanted.items():
        if data and not (figures / name).exists():  # named by content: existing means identical
            with atomic_path(figures / name) as tmp:
                tmp.write_bytes(data)
    page = folder / f"{stem}.html"
    with atomic_path(page) as tmp:
        tmp.write_text(render(report), encoding="utf-8")
    write_json(folder / f"{stem}.json", report_to_json(report, stem))
    for old in figures.glob("fig-*.*"):
        if old.name not in wanted:
            old.unlink()
    return page


def load_report(folder: Path, *, stem: str = "report") -> Report:
    """Read back what `write_report` wrote.

    Raises:
        UserError: there is none, or it is not a report.
    """
    import json

    path = Path(folder) / f"{stem}.json"
    if not path.is_file():
        raise UserError(f"{folder} has no {stem}.json")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}") from e
    return report_from_json(value, Path(folder))


def render(report: Report) -> str:
    """The page as text: no script, no link outwards, everything a user wrote escaped."""
    from markupsafe import Markup

    marks = Marks()
    for m in all_measurements(report):  # numbered in reading order, whatever the template does
        marks.number(m.stamp)
    everything = measurement_table(report.measurements) if report.measurements else None
    css = files("latentsmith.reports").joinpath("page.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            everything=everything,
            marks=marks,
            css=Markup(css),
            rules=RULES,
            symbols={"best": "★", "go": "✓", "no-go": "✗"},
            counts=counts_text(report),
            pairs_in_targets=any(
                t.measurement is not None and is_distance_correlation(t.measurement)
                for t in report.targets
            ),
            distance_correlation=DISTANCE_CORRELATION,
        )
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=PackageLoader("latentsmith.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.tests["measured"] = lambda cell: isinstance(cell, Measurement)
    env.tests["table"] = lambda item: isinstance(item, Table)
    env.filters |= {
        "prose": _prose,
        "inline": _inline,
        "cell": _cell_text,
        "value": value_text,
        "interval": interval_text,
        "number": number_text,
        "stamp": stamp_text,
        "data_uri": _data_uri,
        "yaml": _yaml,
        "chance": lambda m: f"{explain(m)[0].chance} {chance_text(m)}",
        "strip": lambda t: Markup(strip(t)),
        "speaks_of_pairs": lambda table: any(
            isinstance(c, Measurement) and is_distance_correlation(c)
            for row in table.rows
            for c in row
        ),
    }
    return env


def _cell_text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool | int | float):
        return number_text(cell)
    return str(cell)


def _inline(text: str) -> Any:
    """Escaped, with `` `code` `` as ``<code>``."""
    from markupsafe import Markup, escape

    text = text.replace(" %", "\u00a0%")  # never a line that begins with a per cent sign
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an odd backtick out: it is just a character
        return escape(text)
    out = [Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts)]
    return Markup("").join(out)


def _prose(text: str) -> Any:
    """Paragraphs, parted by blank lines."""
    from markupsafe import Markup

    paragraphs = [" ".join(p.split()) for p in text.split("\n\n") if p.strip()]
    return Markup("\n").join(Markup("<p>{}</p>").format(_inline(p)) for p in paragraphs)


def _data_uri(figure: Figure) -> str:
    return f"data:{figure.media};base64,{base64.b64encode(figure.data).decode('ascii')}"


def _yaml(value: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True)
