"""Members of a ZIP: found once, then read by any number of threads and processes.

`zipfile.ZipFile` has one file position and a lock around it. Here a member is read by ``pread`` at
the place the directory names, so threads do not wait for each other, and a process that was forked
or spawned needs nothing but the path.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from posixpath import basename, splitext
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from latentsmith.data.base import CorruptSample
from latentsmith.data.image_folder import SUFFIXES
from latentsmith.data.zip_csv.growing import partial_file
from latentsmith.errors import UserError

MOST_BYTES = 1 << 30
"""Bytes of the largest member that is read: an encoded image has far fewer."""

_LENGTHS = struct.Struct("<4s22x2H")
"""Of a local header: signature, length of the name, length of the extra field."""


class Members:
    """Some members of a ZIP, by number.

    Args:
        path: the ZIP.
        infos: its members, as `list_members` and `find_members` give them.

    Attributes:
        names: of the members.
        sizes: their bytes when unpacked, int64 [N].
        crcs: their CRC-32, as the directory states them, int64 [N].
    """

    def __init__(self, path: Path, infos: Sequence[ZipInfo]):
        self.path = path
        self.names = [info.filename for info in infos]
        self.sizes = np.array([info.file_size for info in infos], dtype=np.int64)
        self.crcs = np.array([info.CRC for info in infos], dtype=np.int64)
        self._packed = np.array([info.compress_size for info in infos], dtype=np.int64)
        self._offsets = np.array([info.header_offset for info in infos], dtype=np.int64)
        self._deflated = np.array([info.compress_type == ZIP_DEFLATED for info in infos])
        self._file: _File | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def read(self, index: int) -> bytes:
        """A member's bytes.

        Raises:
            CorruptSample: they are not those the directory tells of.
        """
        try:
            content = self._unpacked(index)
        except (OSError, ValueError, zlib.error) as error:
            raise CorruptSample(f"{self.path}, member {self.names[index]}: {error}") from error
        return content

    def _unpacked(self, index: int) -> bytes:
        file = self._file
        if file is None:  # two threads may both open it; the one that is not kept closes itself
            file = self._file = _File(self.path)
        offset, packed = int(self._offsets[index]), int(self._packed[index])
        head = os.pread(file.descriptor, _LENGTHS.size, offset)
        if len(head) < _LENGTHS.size or not head.startswith(b"PK\3\4"):
            raise ValueError("there is no member where the directory says")
        _, name, extra = _LENGTHS.unpack(head)
        # the extra field may differ from the directory's, so that only here is its length known
        content = os.pread(file.descriptor, packed, offset + _LENGTHS.size + name + extra)
        if self._deflated[index]:
            # one byte more than stated is enough to know, however much more there is
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.sizes[index] + 1)
        if len(content) != self.sizes[index] or zlib.crc32(content) != self.crcs[index]:
            raise ValueError("its bytes do not match its checksum")
        return content


class _File:
    """A file for ``pread``, closed when nobody holds it. A forked child may use its parent's: there
    is no position to share."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def list_members(path: Path) -> list[ZipInfo]:
    """The images of a ZIP.

    Raises:
        UserError: there is no such file, it is unfinished, or no ZIP.
    """
    if not path.is_file():
        if partial_file(path).is_file():
            raise UserError(
                f"{path} is not finished: run the 'latentsmith data prepare' command that writes "
                "it again, it goes on where it stopped"
            )
        raise UserError(f"archive {path} does not exist (or is no file)")
    try:
        with ZipFile(path) as opened:
            infos = opened.infolist()
    except (BadZipFile, OSError, NotImplementedError) as error:
        raise UserError(f"archive {path} cannot be read as ZIP: {error}") from error
    # posixpath and not pathlib: it is ten times as fast, and there may be a million
    return [info for info in infos if splitext(info.filename)[1].lower() in SUFFIXES]


def find_members(
    path: Path, infos: Sequence[ZipInfo], wanted: Sequence[str], by: str
) -> list[ZipInfo]:
    """The member of each sample.

    Args:
        path: the ZIP, for messages.
        infos: its members.
        wanted: names of members; or sample ids, which are names without folders, without suffix,
            or without both.
        by: ``"file"`` or ``"sample_id"``, which of these.

    Raises:
        UserError: no such member, or several; or members packed in a way that cannot be read, or
            larger than any image.
    """
    exact = {info.filename: info for info in infos}
    loose = {} if by == "file" else _by_short_names(infos)
    found = [exact.get(name) or loose.get(name) for name in wanted]
    missing = [name for name, info in zip(wanted, found, strict=True) if info is None]
    if missing:
        several = [name for name in missing if name in loose]
        if several:
            raise UserError(
                f"{path} has several members for sample {several[0]!r}: say which by a column "
                "'file' in the CSV"
            )
        raise UserError(
            f"{path} has no image for {len(missing)} of {len(wanted)} samples (column {by}): "
            f"{_some(missing)}. Its {len(infos)} images: {_some([i.filename for i in infos])}"
        )
    chosen = [info for info in found if info is not None]
    for info in chosen:
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or info.flag_bits & 1:
            how = "encrypted" if info.flag_bits & 1 else f"packed by method {info.compress_type}"
            raise UserError(
                f"{path}, member {info.filename}: it is {how}; only stored and deflated members "
                "can be read (zip -0 stores)"
            )
        if max(info.file_size, info.compress_size) > MOST_BYTES:
            raise UserError(
                f"{path}, member {info.filename}: it would unpack to {info.file_size / 1e9:,.1f} "
                f"GB, which is no image: leave it out of the CSV"
            )
    return chosen


def _by_short_names(infos: Sequence[ZipInfo]) -> dict[str, ZipInfo | None]:
    """Members by path without suffix, by name without folder, and by both; None where that is not
    one member."""
    paths: dict[str, ZipInfo | None] = {}
    names: dict[str, ZipInfo | None] = {}
    for info in infos:
        path = splitext(info.filename)[0]
        paths[path] = None if path in paths else info
        for name in (basename(info.filename), basename(path)):
            names[name] = None if name in names else info
    return names | paths


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (", …" if len(names) > 5 else "")
