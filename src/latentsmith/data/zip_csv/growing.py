"""A ZIP that can be killed at any instant while it is written, and goes on.

NAME.zip.partial   the members so far, without a directory
NAME.zip.journal   a line of JSON for each sample so far, members or not

A batch's members are on disk (fsync) before its lines are written, so the journal never tells of
bytes that are not there. Going on means reading the journal and cutting off what it does not tell
of. At the end the directory is added and the file renamed: NAME.zip is whole or absent, and at no
time are there two copies of the images.
"""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latentsmith.data.zip_csv.records import Member, directory
from latentsmith.utils.files import fsync_folder

Note = dict[str, Any]
"""What is known of a sample. With ``"name"`` it is a member of that name, whose ``"size"`` and
``"crc"`` are added when it is written; without, the ZIP holds nothing of it. JSON-able."""


def partial_file(path: Path) -> Path:
    """Where the members of a ZIP lie until it is finished."""
    return path.with_name(path.name + ".partial")


def journal_file(path: Path) -> Path:
    """What is known of the samples of a ZIP until it is finished."""
    return path.with_name(path.name + ".journal")


class GrowingZip:
    """A ZIP that is begun, or gone on with. One writer at a time: the caller holds a lock.

    Args:
        path: of the finished ZIP; its folder exists, it does not.

    Attributes:
        count: samples that are safe on disk, members or not.
        size: bytes of the members so far.
    """

    def __init__(self, path: Path):
        self.path = path
        flags = os.O_RDWR | os.O_CREAT
        self._data = os.fdopen(os.open(partial_file(path), flags, 0o644), "r+b")
        self._lines = os.fdopen(os.open(journal_file(path), flags, 0o644), "r+b")
        self.count, self.size = 0, 0
        self._recover()
        fsync_folder(path.parent)

    def __enter__(self) -> "GrowingZip":
        return self

    def __exit__(self, *exc: object) -> None:
        self._data.close()
        self._lines.close()

    def _recover(self) -> None:
        """Find what is safe, and cut off the rest of both files."""
        there, safe = self._data.seek(0, os.SEEK_END), 0
        for line in self._lines:
            note = _note(line)
            if note is None:  # torn, and so is everything after it
                break
            extent = _member(note).extent if "name" in note else 0
            if self.size + extent > there:  # somebody cut the file
                break
            self.count, self.size, safe = self.count + 1, self.size + extent, safe + len(line)
        for file, end in ((self._data, self.size), (self._lines, safe)):
            file.seek(end)
            file.truncate()

    def append(self, notes: Sequence[Note], contents: Sequence[bytes | None]) -> None:
        """Commit some samples: when this returns, they survive a power failure.

        After an error (a full disk) nothing more may be written; opened anew, it goes on.

        Args:
            notes: of each sample.
            contents: the member's bytes; None for a note without ``"name"``.
        """
        lines, written = [], 0
        for note, content in zip(notes, contents, strict=True):
            if content is not None:
                note = note | {"size": len(content), "crc": zlib.crc32(content)}
                written += self._data.write(_member(note).header())
                written += self._data.write(content)
            lines.append(json.dumps(note).encode() + b"\n")
        _flush(self._data)
        self._lines.write(b"".join(lines))
        _flush(self._lines)
        self.count, self.size = self.count + len(lines), self.size + written

    def notes(self) -> Iterator[Note]:
        """What is known of every sample so far, in order. Not while appending."""
        with journal_file(self.path).open("rb") as lines:
            yield from map(json.loads, lines)

    def finish(self) -> None:
        """Write the directory and give the file its name."""
        members = (_member(note) for note in self.notes() if "name" in note)
        self._data.writelines(directory(members))
        _flush(self._data)
        partial_file(self.path).replace(self.path)
        fsync_folder(self.path.parent)
        journal_file(self.path).unlink()


def _member(note: Note) -> Member:
    return Member(note["name"], note["size"], note["crc"])


def _note(line: bytes) -> Note | None:
    """A line of the journal; None when it was not written to its end."""
    try:
        note = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # also bytes that are not UTF-8
        return None
    return note if isinstance(note, dict) else None


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
