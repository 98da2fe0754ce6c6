"""A list of images → a table of texts: CSV and TSV with a header, or an object a line (JSONL)."""

import json
from pathlib import Path
from typing import Any

from latentsmith.data.zip_csv.table import Table, read_rows
from latentsmith.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = {".jsonl", ".ndjson"}


def read_list(path: Path) -> Table:
    """Every column of a list; texts are stripped, and what a row does not have is empty.

    Raises:
        UserError: no such file, another suffix, no rows, or a line that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in DELIMITERS and suffix not in JSON_LINES:
        known = ", ".join([*DELIMITERS, *sorted(JSON_LINES)])
        raise UserError(f"list {path}: what is in it is told by its suffix, which must be {known}")
    if not path.is_file():
        raise UserError(f"there is no list {path} (or it is no file)")
    if suffix in DELIMITERS:
        header, rows, lines = read_rows(path, DELIMITERS[suffix])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"{path} has several columns of one name: {', '.join(twice)}")
        columns = {name: [row[k].strip() for row in rows] for k, name in enumerate(header)}
    else:
        objects, lines = _objects(path)
        names = dict.fromkeys(name for row in objects for name in row)
        columns = {name: [row.get(name, "") for row in objects] for name in names}
    if not lines:
        raise UserError(f"list {path} has no rows")
    return Table(path, columns, lines)


def _objects(path: Path) -> tuple[list[dict[str, str]], list[int]]:
    """What each line holds that is text, and its number."""
    rows, lines = [], []
    try:
        with path.open(encoding="utf-8-sig") as file:  # not splitlines: U+2028 may be in a text
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_object(line, f"{path}, line {number}"))
                    lines.append(number)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list {path} cannot be read as UTF-8: {error}") from error
    return rows, lines


def _object(line: str, where: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({error}); each line must be one object") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} holds {type(value).__name__}; each line must be one object")
    return {name: _text(item) for name, item in value.items()}


def _text(value: Any) -> str:
    """Of a list of texts, as several captions, the first. What is no text becomes JSON again: the
    field may be one that nobody asks for."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = value[0]
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.strip().encode("utf-8", "replace").decode()  # JSON can hold half characters
