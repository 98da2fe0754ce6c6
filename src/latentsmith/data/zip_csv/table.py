"""The CSV beside a ZIP: a row for each sample, every mistake a sentence with its line."""

import csv
from pathlib import Path

from latentsmith.data.base import Split
from latentsmith.errors import UserError

COLUMNS = ("sample_id", "file", "class_id", "class_name", "caption", "split")
"""What is looked at; only the first must be there."""

SPLITS: dict[str, Split | None] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": None,
}
"""What may stand in the column ``split``; None: the row is not used."""


class Table:
    """The columns of a CSV that are looked at.

    Args:
        path: of the CSV.
        columns: name → text of every row.
        lines: the line of the file each row begins at, for messages.
    """

    def __init__(self, path: Path, columns: dict[str, list[str]], lines: list[int]):
        self.path, self.columns, self.lines = path, columns, lines

    def __len__(self) -> int:
        return len(self.lines)

    def rows_of(self, split: Split) -> list[int]:
        """Rows whose column ``split`` names the split; all rows when there is no such column.

        Raises:
            UserError: a split that is not known.
        """
        if "split" not in self.columns:
            return list(range(len(self)))
        rows = []
        for row, value in enumerate(self.columns["split"]):
            if value not in SPLITS:
                raise UserError(
                    f"{self.path}, line {self.lines[row]}: split {value!r} is none of "
                    f"{', '.join(SPLITS)}"
                )
            if SPLITS[value] == split:
                rows.append(row)
        return rows


def read_samples(path: Path) -> Table:
    """A CSV of samples: `read_table`, with ids that are there and unique.

    Raises:
        UserError: they are not; or as `read_table`.
    """
    table = read_table(path, "sample_id")
    first: dict[str, int] = {}
    for sample, line in zip(table.columns["sample_id"], table.lines, strict=True):
        if not sample:
            raise UserError(f"{path}, line {line}: sample_id is empty")
        if sample in first:
            raise UserError(
                f"{path}: sample_id {sample!r} is in line {first[sample]} and again in line "
                f"{line}; ids must be unique"
            )
        first[sample] = line
    return table


def read_table(path: Path, needed: str) -> Table:
    """A CSV: UTF-8, commas, a header. Columns that are not in `COLUMNS` are left out.

    Args:
        needed: a column that must be there.

    Raises:
        UserError: it cannot be read, lacks that column, has no rows, or a row that does not fit its
            header.
    """
    if not path.exists():
        raise UserError(
            f"there is no {path}: a ZIP's samples are listed in a CSV, beside it under its name or "
            "where the setting 'manifest' says"
        )
    header, rows, lines = read_rows(path)
    if needed not in header:
        known = f"It has: {', '.join(header)}." if any(header) else "It is empty."
        raise UserError(f"{path} has no column {needed!r} in its first line. {known}")
    twice = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    if twice:
        raise UserError(f"{path} has several columns of one name: {', '.join(twice)}")
    if not rows:
        raise UserError(f"{path} has a header and no rows")
    places = {name: k for k, name in enumerate(header) if name in COLUMNS}
    return Table(path, {name: [row[k] for row in rows] for name, k in places.items()}, lines)


def read_rows(path: Path, delimiter: str = ",") -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows, and the line each row begins at (a quoted caption may have several).

    Raises:
        UserError: it cannot be read, or has a row that does not fit its header.
    """
    rows, lines = [], []
    try:
        # "-sig": spreadsheets put a byte order mark before the header
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            begin = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise UserError(
                        f"{path}, line {begin}: {len(row)} fields, but the header has {len(header)}"
                    )
                if row:
                    rows.append(row)
                    lines.append(begin)
                begin = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        between = "commas" if delimiter == "," else "tabs"
        raise UserError(f"{path} cannot be read as CSV (UTF-8, {between}): {error}") from error
    return header, rows, lines
