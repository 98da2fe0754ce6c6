"""Copying chosen rows of mapped tensors into a buffer, as fast as memory moves.

The rows of a field lie in one tensor per shard. Every row is copied once, straight to where it
belongs in the batch. Grouping a batch by shard would let one call copy many rows, but the groups
must then be spread over the batch by a second copy, and traffic is what gathering costs: on 20
shards that was 10 to 20 times slower than the ways below.

- One table: `numpy.take` into the buffer, 1.1 to 1.7 times as fast as `torch.index_select`.
- Many, rows up to 64 KiB: one `numpy.take` too, over the address space from the first mapping to
  the last, seen as one array of pieces of 4 KiB; what lies between mappings is never touched.
- Many, large rows: one `memmove` for each. That costs 0.5 µs and letting go of the interpreter
  lock once per row, which threads that fill other batches feel with small rows.
"""

import ctypes
import math
import mmap
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from latentsmith.stores.base import FeatureStore, FieldSpec
from latentsmith.stores.layout import numel, parts
from latentsmith.stores.quantize import dequantize
from latentsmith.stores.rows import as_bytes, buffer, check_rows, chosen

Copy = Callable[[str, Tensor, Tensor], None]
"""(name of a stored tensor, rows int64 [B], buffer [B, …]): copies the rows into the buffer."""

LARGEST_BY_PIECES, SMALLEST_PIECE = 64 << 10, 64
"""Bytes. Beyond them one move for each row is faster: three times for rows of 128 KiB."""

CHUNK = 2 << 20
"""int8 is decoded in pieces of about so many bytes of float32, which stay in the cache: 7 times
as fast as decoding a batch of 128 x [256, 1024] in one piece."""


class RowTables:
    """A stored tensor as pieces [rows_per, …], the last one maybe shorter.

    Args:
        tables: contiguous, of one row shape and dtype; row r lies in table ``r // rows_per``.
        rows_per: rows of each table but the last.
    """

    def __init__(self, tables: Sequence[Tensor], rows_per: int):
        self.tables, self.rows_per = list(tables), rows_per
        self._first = as_bytes(self.tables[0])
        self._begins = np.array([table.data_ptr() for table in self.tables], dtype=np.int64)
        self._span = None
        if len(self.tables) > 1 and self._first.shape[1] <= LARGEST_BY_PIECES:
            self._span = _Span.over(self.tables, self._first.shape[1])

    def copy(self, rows: Tensor, out: Tensor) -> None:
        """Rows int64 [B], which must be there, into ``out`` [B, …], contiguous, of the tables'
        dtype. Several threads may copy at once."""
        width = self._first.shape[1]
        if len(self.tables) == 1:
            # no row is out of range; with mode "raise" numpy would copy through a buffer of its own
            np.take(self._first, rows.numpy(), axis=0, out=as_bytes(out), mode="clip")
            return
        shards, local = np.divmod(rows.numpy(), self.rows_per)
        sources = self._begins[shards] + local * width
        if self._span is None:
            _move(sources, width, out.data_ptr(), range(len(rows)))
            return
        if not self._span.any_odd:
            self._span.take(sources, as_bytes(out))
            return
        odd = self._span.odd[shards]
        # beside an odd table nothing need be mapped: take any other row in its place
        self._span.take(np.where(odd, self._span.first, sources), as_bytes(out))
        _move(sources[odd], width, out.data_ptr(), np.flatnonzero(odd).tolist())


class _Span:
    """Memory from the first table to the last as pieces of one size.

    Attributes:
        odd: bool [tables], those that do not lie on the pieces (the last shard's header may be
            shorter).
    """

    def __init__(self, first: int, pieces: np.ndarray, odd: np.ndarray, width: int):
        self.first, self.pieces, self.odd, self.any_odd = first, pieces, odd, bool(odd.any())
        self._steps = np.arange(width // pieces.shape[1])  # pieces of a row

    @classmethod
    def over(cls, tables: Sequence[Tensor], width: int) -> "_Span | None":
        """Pieces as large as they can be; None where that is too small to be worth it."""
        piece = math.gcd(width, mmap.PAGESIZE)
        if piece < SMALLEST_PIECE:
            return None
        begins = np.array([table.data_ptr() for table in tables], dtype=np.int64)
        odd = (begins - begins[0]) % piece != 0
        lowest = tables[int(np.where(odd, np.iinfo(np.int64).max, begins).argmin())]
        end = max(
            t.data_ptr() + t.nbytes for t, o in zip(tables, odd.tolist(), strict=True) if not o
        )
        count = (end - lowest.data_ptr()) // piece
        pieces = as_strided(as_bytes(lowest), (count, piece), (piece, 1), writeable=False)
        return cls(lowest.data_ptr(), pieces, odd, width)

    def take(self, sources: np.ndarray, out: np.ndarray) -> None:
        """Rows at these addresses, of tables that are not odd, into ``out`` uint8 [B, width]."""
        piece = self.pieces.shape[1]
        at = ((sources - self.first) // piece)[:, None] + self._steps
        target = out.reshape(len(out), len(self._steps), piece)
        np.take(self.pieces, at, axis=0, out=target, mode="clip")


def _move(sources: np.ndarray, width: int, target: int, places: Iterable[int]) -> None:
    """``width`` bytes from each of ``sources`` to a place in the batch at ``target``."""
    move = _memmove()
    for source, place in zip(sources.tolist(), places, strict=True):
        move(target + place * width, source, width)


@cache
def _memmove() -> Any:
    """C's, without a result to convert; the lock is not held while it copies."""
    move = ctypes.CDLL(None).memmove
    move.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    move.restype = None
    return move


def gather_fields(
    store: FeatureStore,
    rows: Tensor,
    out: dict[str, Tensor] | None,
    fields: Sequence[str] | None,
    copy: Copy,
    *,
    at_once: bool = False,
) -> dict[str, Tensor]:
    """What `FeatureStore.gather` promises, by ``copy``.

    Args:
        at_once: give ``copy`` all rows of a stored tensor in one call, also where smaller pieces
            would be decoded faster.
    """
    check_rows(store, rows)
    result = {}
    for name in chosen(store.manifest.fields, fields, store.path):
        spec = store.manifest.fields[name]
        result[name] = buffer(out, name, spec, len(rows))
        if spec.stored == "int8":
            step = CHUNK // (4 * numel(spec.shape)) if not at_once else len(rows)
            _decode(name, spec, rows, result[name], copy, max(step, 1))
        else:
            copy(name, rows, result[name])
    return result


def _decode(name: str, spec: FieldSpec, rows: Tensor, out: Tensor, copy: Copy, step: int) -> None:
    """Rows of an int8 field, ``step`` at a time."""
    pieces = [
        (part, torch.empty((min(step, len(rows)), *shape), dtype=getattr(torch, dtype)))
        for part, (shape, dtype) in parts(name, spec).items()
    ]
    for some, target in zip(rows.split(step), out.split(step), strict=True):
        raw = [piece[: len(some)] for _, piece in pieces]
        for (part, _), own in zip(pieces, raw, strict=True):
            copy(part, some, own)
        dequantize_by_chunks(*raw, out=target)


def dequantize_by_chunks(code: Tensor, scale: Tensor, offset: Tensor, out: Tensor) -> None:
    """`dequantize` into ``out`` [B, …] without a batch of float32 in between: the same values."""
    step = max(1, CHUNK // (4 * max(code[:1].numel(), 1)))
    for begin in range(0, len(code), step):
        part = slice(begin, begin + step)
        dequantize(code[part], scale[part], offset[part], out=out[part])
