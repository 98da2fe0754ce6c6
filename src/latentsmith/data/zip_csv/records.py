"""The bytes of a ZIP whose members are stored as they are (ZIP_STORED).

`zipfile` keeps the directory in memory until a file is closed, so what it was writing when it was
killed is lost. With the records at hand, members can be written today and the directory tomorrow.
Field names follow PKWARE's APPNOTE; ZIP64 records are written where numbers need them.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NO_TIME, NO_DATE = 0, 0x21
"""1980-01-01 00:00, ZIP's earliest: with the time of writing, equal images would make unequal
files."""

UTF8 = 0x800
MOST_MEMBERS, MOST_BYTES = 0xFFFF, 0xFFFFFFFF
"""What the fields of a plain ZIP hold; these values themselves say "see the ZIP64 record"."""

PLAIN, ZIP64 = 20, 45
"""Version needed to extract."""

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")


@dataclass(frozen=True)
class Member:
    """A member: its name, how many bytes it has (below 4 GiB), and their CRC-32."""

    name: str
    size: int
    crc: int

    def header(self) -> bytes:
        """What stands before its bytes."""
        name = self.name.encode()
        return (
            LOCAL.pack(
                b"PK\3\4", PLAIN, _flags(self.name), 0, NO_TIME, NO_DATE,
                self.crc, self.size, self.size, len(name), 0,
            )
            + name
        )  # fmt: skip

    @property
    def extent(self) -> int:
        """Bytes it takes in the file, header included."""
        return LOCAL.size + len(self.name.encode()) + self.size

    def entry(self, offset: int) -> bytes:
        """Its line in the directory.

        Args:
            offset: where its header begins in the file.
        """
        name, extra = self.name.encode(), b""
        if offset >= MOST_BYTES:
            extra, offset = struct.pack("<2HQ", 1, 8, offset), MOST_BYTES
        version = ZIP64 if extra else PLAIN
        made_on_unix = 3 << 8 | version
        return (
            CENTRAL.pack(
                b"PK\1\2", made_on_unix, version, _flags(self.name), 0, NO_TIME, NO_DATE,
                self.crc, self.size, self.size, len(name), len(extra), 0, 0, 0,
                0o100644 << 16, offset,
            )
            + name
            + extra
        )  # fmt: skip


def directory(members: Iterable[Member]) -> Iterator[bytes]:
    """What stands after the last member, in pieces: a line for each member, and the end records.

    Args:
        members: all of them, in the order in which they lie in the file from its first byte.
    """
    count = offset = length = 0
    for member in members:
        line = member.entry(offset)
        yield line
        count, offset, length = count + 1, offset + member.extent, length + len(line)
    if count >= MOST_MEMBERS or offset >= MOST_BYTES or length >= MOST_BYTES:
        end64 = END64.pack(
            b"PK\6\6", END64.size - 12, ZIP64, ZIP64, 0, 0, count, count, length, offset
        )
        yield end64 + LOCATOR64.pack(b"PK\6\7", 0, offset + length, 1)
    few = min(count, MOST_MEMBERS)
    yield END.pack(b"PK\5\6", 0, 0, few, few, min(length, MOST_BYTES), min(offset, MOST_BYTES), 0)


def _flags(name: str) -> int:
    return 0 if name.isascii() else UTF8
