"""Copying chosen rows of mapped tensors into a buffer, as fast as memory moves.

The rows of a field lie in one tensor per shard. Every row is copied once, straight to where it
belongs in the batch. Grouping a batch by shard would let one call copy many rows, but the groups
must then be spread over the batch by a second copy, and traffic is what gathering costs: on 20
shards that was 10 to 20 times slower than the ways below.

- One table: `numpy.take` into the buffer.
- Many: one `torch.index_select` over all memory from the first mapping to the last, seen as rows
  that overlap: row i begins at byte i. What lies between mappings is never touched.

Either is one call without the interpreter lock. A `memmove` for each row moves as much in one
thread, but taking the lock back after each of 128 rows holds up threads that fill other batches.
(`numpy.take` cannot do the second: it copies a whole batch aside when its buffer lies between the
mappings.)
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsmith.stores.base import FeatureStore, FieldSpec
from latentsmith.stores.layout import numel, parts
from latentsmith.stores.quantize import dequantize
from latentsmith.stores.rows import as_bytes, buffer, check_rows, chosen

Copy = Callable[[str, Tensor, Tensor], None]
"""(name of a stored tensor, rows int64 [B], buffer [B, …]): copies the rows into the buffer."""

MOST_NUMBERS = 1 << 62
"""What torch lets a tensor have: mappings 2⁴³ bytes apart, with rows of 512 KiB."""

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
        end = max(table.data_ptr() + table.nbytes for table in self.tables)
        self._memory = Memory(int(self._begins.min()), end, self._first.shape[1])

    def copy(self, rows: Tensor, out: Tensor) -> None:
        """Rows int64 [B], which must be there, into ``out`` [B, …], contiguous, of the tables'
        dtype. Several threads may copy at once."""
        if len(self.tables) == 1:
            # no row is out of range; with mode "raise" numpy would copy through a buffer of its own
            np.take(self._first, rows.numpy(), axis=0, out=as_bytes(out), mode="clip")
            return
        shards, local = np.divmod(rows.numpy(), self.rows_per)
        self._memory.copy(self._begins[shards] + local * self._first.shape[1], as_bytes(out))


class Memory:
    """Rows of ``width`` bytes anywhere from address ``first`` to ``end``. It owns nothing: what is
    copied must be mapped, and stay so meanwhile."""

    def __init__(self, first: int, end: int, width: int):
        self.first, self.width = first, width
        self._rows: Tensor | None = None
        count = end - first - width + 1
        if count * width < MOST_NUMBERS:
            all_of_it = torch.from_numpy(np.asarray(_Bytes(first, end - first)))
            self._rows = all_of_it.as_strided((count, width), (1, 1))

    def copy(self, sources: np.ndarray, out: np.ndarray) -> None:
        """Rows at addresses int64 [B] into ``out`` uint8 [B, width]."""
        if self._rows is not None:
            at = torch.from_numpy(sources - self.first)
            torch.index_select(self._rows, 0, at, out=torch.from_numpy(out))
            return
        move, target = _memmove(), out.ctypes.data
        for source in sources.tolist():
            move(target, source, self.width)
            target += self.width


class _Bytes:
    """Memory as numpy takes it from anybody."""

    def __init__(self, first: int, count: int):
        self.__array_interface__ = {
            "data": (first, False),
            "shape": (count,),
            "typestr": "|u1",
            "version": 3,
        }


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
