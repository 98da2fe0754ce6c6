"""The keys of a store: a million names in three arrays, mapped rather than parsed.

A store that is opened by every worker cannot afford a dict of all names: 1.3 million of them cost
150 MB and a second in each process. Here names lie one after another in one array of bytes, and
are found by binary search over their sorted hashes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import torch
import xxhash
from torch import Tensor

from latentsmith.errors import UserError, nearest
from latentsmith.utils.digest import state_digest

SHOWN = 5
"""Keys named in a message before "and so on"."""


def _hash(name: bytes) -> int:
    return xxhash.xxh3_64_intdigest(name) - (1 << 63)  # as a signed number


class KeyTable(Sequence[str]):
    """Names of rows, unique, in row order.

    Args:
        arrays: as `arrays` gave them (possibly mapped from a file).
    """

    def __init__(self, arrays: dict[str, Tensor]):
        self._text = arrays["text"].numpy()  # uint8 [bytes of all names]
        self._ends = arrays["ends"].numpy()  # int64 [N]
        self._hashes = arrays["hashes"].numpy()  # int64 [N], ascending
        self._rows = arrays["rows"].numpy()  # int64 [N], the row of each hash

    @classmethod
    def of(cls, names: Iterable[str]) -> "KeyTable":
        """A table of these names.

        Raises:
            UserError: a name that occurs twice, or an empty one.
        """
        encoded = [name.encode() for name in names]
        _check(encoded)
        hashes = torch.tensor([_hash(name) for name in encoded], dtype=torch.int64)
        ordered, rows = hashes.sort(stable=True)
        text = bytearray(b"".join(encoded))
        return cls(
            {
                "text": torch.frombuffer(text, dtype=torch.uint8) if text else _no_bytes(),
                "ends": torch.tensor([len(n) for n in encoded], dtype=torch.int64).cumsum(0),
                "hashes": ordered,
                "rows": rows,
            }
        )

    @property
    def arrays(self) -> dict[str, Tensor]:
        """What the table consists of, to be written into a file."""
        parts = {"text": self._text, "ends": self._ends, "hashes": self._hashes, "rows": self._rows}
        return {name: torch.from_numpy(part) for name, part in parts.items()}

    def digest(self) -> str:
        """Of the names and their order."""
        return state_digest({name: self.arrays[name] for name in ("text", "ends")})

    def __len__(self) -> int:
        return len(self._ends)

    def _bytes(self, row: int) -> bytes:
        begin = int(self._ends[row - 1]) if row else 0
        return self._text[begin : int(self._ends[row])].tobytes()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._bytes(row).decode() for row in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._bytes(row).decode()

    def __iter__(self) -> Iterator[str]:
        text, begin = self._text.tobytes(), 0
        for end in self._ends.tolist():
            yield text[begin:end].decode()
            begin = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def find(self, name: str) -> int | None:
        """The row of a name; None when there is none."""
        encoded = name.encode()
        value = _hash(encoded)
        at = int(np.searchsorted(self._hashes, value))
        while at < len(self._hashes) and self._hashes[at] == value:
            row = int(self._rows[at])
            if self._bytes(row) == encoded:
                return row
            at += 1
        return None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The row of a name; ValueError when there is none."""
        row = self.find(value)
        if row is None or not start <= row < (len(self) if stop is None else stop):
            raise ValueError(f"{value!r} is no key")
        return row

    def rows(self, names: Sequence[str], where: str) -> Tensor:
        """Row numbers int64 [B] of names.

        Args:
            where: what to call the store in a message.

        Raises:
            UserError: names the table does not have.
        """
        found = [self.find(name) for name in names]
        absent = [name for name, row in zip(names, found, strict=True) if row is None]
        if absent:
            hint = nearest(absent[0], self[:1000]) if len(self) <= 1000 else ""
            raise UserError(f"{where} has no sample {listed(absent)}. {hint}".rstrip())
        return torch.tensor(found, dtype=torch.int64)


def listed(names: Sequence[object]) -> str:
    """The first few of many names."""
    text = ", ".join(repr(name) for name in names[:SHOWN])
    more = len(names) - SHOWN
    return f"{text} and {more:,} more" if more > 0 else text


def _check(names: list[bytes]) -> None:
    if len(set(names)) < len(names):
        seen: set[bytes] = set()
        twice = [n.decode() for n in names if n in seen or seen.add(n)]
        raise UserError(
            f"{len(twice)} keys occur more than once, e.g. {listed(twice)}: each sample of a store "
            "needs its own key"
        )
    if b"" in names:
        raise UserError(f"the key of row {names.index(b'')} is empty: each sample needs a name")


def _no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)
