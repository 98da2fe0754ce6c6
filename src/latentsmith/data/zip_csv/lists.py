"""The CSV files beside a ZIP, from what is known of its samples."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from latentsmith.data.zip_csv.growing import Note
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_path


def write_samples(
    path: Path, notes: Iterable[Note], split: str, classes: Sequence[str] | None
) -> None:
    """The CSV of a split's readable samples: sample_id, class_id and class_name (with classes),
    split, caption (if there are any), width and height.

    Args:
        notes: with ``"id"``, ``"label"``, ``"caption"``, ``"width"``, ``"height"``; those without
            ``"name"`` are left out.

    Raises:
        UserError: no sample is readable.
    """
    rows = (note for note in notes if "name" in note)
    first = next(rows, None)
    if first is None:
        raise UserError(f"no image can be read, so there is nothing for {path.name} to list")
    others = [key for key in ("caption", "width", "height") if key in first]
    header = ["sample_id", *(["class_id", "class_name"] if classes else []), "split", *others]

    def row(note: Note) -> list[Any]:
        own = [note["label"], classes[note["label"]]] if classes else []
        return [note["id"], *own, split, *(note.get(key, "") for key in others)]

    def every() -> Iterable[list[Any]]:
        yield header
        yield row(first)
        yield from map(row, rows)

    _write(path, every())


def write_classes(path: Path, classes: Sequence[str]) -> None:
    """All classes by number: some may have no sample."""
    _write(path, [["class_id", "class_name"], *enumerate(classes)])


def write_unreadable(path: Path, notes: Iterable[Note]) -> None:
    """``"id"`` and ``"reason"`` of samples that cannot be read; no file where there are none."""
    rows = [[note["id"], note["reason"]] for note in notes]
    if rows:
        _write(path, [["sample_id", "reason"], *rows])


def read_unreadable(path: Path) -> list[Note]:
    """What `write_unreadable` wrote."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{"id": name, "reason": reason} for name, reason in list(csv.reader(file))[1:]]


def _write(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    with atomic_path(path) as tmp, tmp.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
