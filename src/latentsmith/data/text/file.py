"""``file``: the user's own texts, from a text file, JSON lines or a table."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from latentsmith.config.schema import schema
from latentsmith.data.text.base import CORPORA, Corpus, CorpusConfig, distinct
from latentsmith.errors import UserError, nearest

Rows = Iterator[tuple[int, dict[str, Any]]]
"""(line number, field → value)."""
TABLES = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


@CORPORA.register("file", help="your own texts: a line each, JSON lines, or a CSV/TSV column")
@schema
class FileConfig(CorpusConfig):
    """Texts of one UTF-8 file. Its ending says what it is: ``.jsonl`` and ``.ndjson`` hold an
    object a line, ``.csv`` and ``.tsv`` a table with a header; in all others a line is a text."""

    kind: Literal["file"] = "file"
    file: Path
    """The file."""
    field: str = "text"
    """Key of the text in JSON lines, or column of the table. Plain text files have none."""
    lower: bool = False
    """Turn texts into lower case: an uncased encoder (MiniLM) sees no difference, and the
    vocabulary is smaller."""

    def read(self, cache: Path) -> Corpus:
        """See `CorpusConfig.read`.

        Raises:
            UserError: the file cannot be read, has no such field, or a line that is no text, naming
                the line.
        """
        path = Path(self.file).expanduser()
        try:
            lines = list(self.lines())
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"cannot read texts from data.file={path}: {error}") from error
        texts = distinct(lines, lower=self.lower)
        if not texts:
            raise UserError(f"data.file={path} holds no texts")
        return Corpus(path.stem, texts, f"file {path}", "", len(lines))

    def lines(self) -> Iterator[str]:
        """The texts as they stand, duplicates included. Raises as `read`, and OSError."""
        path = Path(self.file).expanduser()
        ending = path.suffix.lower()
        with path.open(encoding="utf-8-sig", newline="" if ending in TABLES else None) as stream:
            if ending in TABLES:
                yield from self._fields(path, _table(stream, TABLES[ending]))
            elif ending in JSON_LINES:
                yield from self._fields(path, _objects(path, stream))
            else:
                yield from (line.rstrip("\n") for line in stream)

    def _fields(self, path: Path, rows: Rows) -> Iterator[str]:
        for number, row in rows:
            if self.field not in row:
                raise UserError(
                    f"{path}, line {number}: no field {self.field!r} (data.field). "
                    f"{nearest(self.field, [key for key in row if key])}"
                )
            text = row[self.field]
            if not isinstance(text, str):
                raise UserError(
                    f"{path}, line {number}: {self.field!r} holds {text!r}, which is no text"
                )
            yield text


def _table(stream: Any, delimiter: str) -> Rows:
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    for row in reader:
        yield reader.line_num, row


def _objects(path: Path, stream: Any) -> Rows:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} holds no object but {line.strip()[:60]}")
        yield number, row
