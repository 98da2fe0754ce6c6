"""``report.json``: the report for machines, read back without loss.

Pictures lie beside it in ``<stem>-figures/`` (they are also inside the HTML page). JSON has no
NaN, so non-finite numbers are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
"""

import math
import re
from pathlib import Path
from typing import Any, get_args

from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement
from latentsmith.reports.content import Cell, Figure, Report, Section, Table, Target, Verdict

FORMAT = 1
"""Raised when the layout of ``report.json`` changes in a way old readers cannot follow."""

_NONFINITE = ("nan", "inf", "-inf")
_PICTURE = re.compile(r"[\w.-]+-figures/fig-[0-9a-f]+\.(png|svg)")


def figures_folder(stem: str) -> str:
    """Where the pictures of ``<stem>.json`` lie, relative to it."""
    return f"{stem}-figures"


def report_to_json(report: Report, stem: str) -> dict[str, Any]:
    """A JSON-able dict without pictures' bytes (figures name their files)."""
    figures = figures_folder(stem)
    return {
        "format": FORMAT,
        "kind": report.kind,
        "title": report.title,
        "subtitle": report.subtitle,
        "lead": report.lead,
        "run": report.run,
        "verdict": report.verdict,
        "targets": [_target_to_json(t) for t in report.targets],
        "measurements": {
            arm: [plain(m.to_json()) for m in ms] for arm, ms in report.measurements.items()
        },
        "sections": [_section_to_json(s, figures) for s in report.sections],
        "config": plain(report.config),
        "manifest": plain(report.manifest),
    }


def report_from_json(value: dict[str, Any], folder: Path) -> Report:
    """The report again; pictures are read from below ``folder`` (and marked when missing).

    Raises:
        UserError: not a report, or of another format version.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise UserError(
            f"{folder} holds a report of format {found!r}; this version reads format {FORMAT}. "
            "Write it again with the latentsmith version that made it, or repeat the measurement."
        )
    try:
        return Report(
            title=value["title"],
            subtitle=value["subtitle"],
            lead=value["lead"],
            targets=[_target_from_json(t) for t in value["targets"]],
            sections=[_section_from_json(s, folder) for s in value["sections"]],
            measurements={
                arm: [Measurement.from_json(m) for m in ms]
                for arm, ms in value["measurements"].items()
            },
            config=value["config"],
            manifest=value["manifest"],
            run=value["run"],
            kind=value["kind"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(f"the report in {folder} is damaged: {type(e).__name__}: {e}") from e


def plain(value: Any) -> Any:
    """Lists for tuples; strings for keys, non-finite numbers and foreign objects; Python numbers
    for NumPy scalars and one-element tensors."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if not isinstance(value, float) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _optional(value: dict[str, Any] | None) -> Measurement | None:
    return None if value is None else Measurement.from_json(value)


def _target_to_json(t: Target) -> dict[str, Any]:
    return {
        "name": t.name,
        "meaning": t.meaning,
        "value": None if t.measurement is None else plain(t.measurement.value),
        "interval": None if t.measurement is None else plain(t.measurement.interval),
        "threshold": t.threshold,
        "verdict": t.verdict,
        "note": t.note,
        "required": t.required,
        "rule": t.rule,
        "bound": plain(t.bound),
        "measurement": None if t.measurement is None else plain(t.measurement.to_json()),
        "reference": None if t.reference is None else plain(t.reference.to_json()),
    }


def _target_from_json(value: dict[str, Any]) -> Target:
    if value["verdict"] not in get_args(Verdict):
        raise ValueError(f"verdict {value['verdict']!r} is not one of {get_args(Verdict)}")
    return Target(
        name=value["name"],
        meaning=value["meaning"],
        measurement=_optional(value["measurement"]),
        threshold=value["threshold"],
        verdict=value["verdict"],
        note=value["note"],
        required=value["required"],
        rule=value["rule"],
        bound=None if value["bound"] is None else float(value["bound"]),
        reference=_optional(value["reference"]),
    )


def _section_to_json(s: Section, figures: str) -> dict[str, Any]:
    items = [_item_to_json(i, figures) for i in s.items]
    return {"title": s.title, "text": s.text, "items": items}


def _section_from_json(value: dict[str, Any], folder: Path) -> Section:
    items = [_item_from_json(i, folder) for i in value["items"]]
    return Section(value["title"], value["text"], items)


def _item_to_json(item: Table | Figure, figures: str) -> dict[str, Any]:
    if isinstance(item, Table):
        return {
            "type": "table",
            "columns": item.columns,
            "rows": [[_cell_to_json(c) for c in row] for row in item.rows],
            "caption": item.caption,
            "align": item.align,
            "flags": [[row, column, flag] for (row, column), flag in item.flags.items()],
        }
    return {
        "type": "figure",
        "file": f"{figures}/{item.file_name()}",
        "media": item.media,
        "caption": item.caption,
        "alt": item.alt,
        "wide": item.wide,
        "width": item.width,
    }


def _item_from_json(value: dict[str, Any], folder: Path) -> Table | Figure:
    if value["type"] == "table":
        rows = [[_cell_from_json(c) for c in row] for row in value["rows"]]
        flags = {(row, column): flag for row, column, flag in value["flags"]}
        return Table(value["columns"], rows, value["caption"], value["align"], flags)
    if value["media"] not in ("image/png", "image/svg+xml"):
        raise ValueError(f"figure of type {value['media']!r}")
    if not _PICTURE.fullmatch(value["file"]):  # never read elsewhere, whatever the file says
        raise ValueError(f"figure file {value['file']!r}")
    path = folder / value["file"]
    data = path.read_bytes() if path.is_file() else b""
    return Figure(
        data,
        value["caption"],
        value["alt"],
        value["media"],
        value["wide"],
        value["width"],
        missing="" if data else path.name,
    )


def _cell_to_json(cell: Cell) -> Any:
    if isinstance(cell, Measurement):
        return {"measurement": plain(cell.to_json())}
    return plain(cell)


def _cell_from_json(value: Any) -> Cell:
    if isinstance(value, dict):
        return Measurement.from_json(value["measurement"])
    return float(value) if value in _NONFINITE else value
