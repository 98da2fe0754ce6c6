"""Reading rows that are not in memory: many reads at once, straight into the batch.

A mapping faults one page after another, and a disk that is asked for one thing at a time is slow:
random rows of 32 KiB came at 1,500 to 5,600 a second through a mapping (without and with
read-ahead) and at 12,600 by 16 threads (research note E, section 2.4).
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.layout import Extent
from latentsmith.stores.rows import as_bytes

QUEUE = 16
"""Reads under way at once."""

RUN_BYTES = 1 << 20
"""Rows that lie side by side are read together, up to so many bytes."""

MOST_VECTORS = 512
"""…and so many rows; the system takes 1,024 buffers at a time."""

MOST_FILES = 256
"""Files kept open; further ones are opened for each read. A process has 1,024 by default."""

PROBES = 16
"""Rows looked at to tell whether a batch is in memory."""


class RowFiles:
    """Rows of stored tensors by `preadv`, past the mapping.

    Args:
        extents: where the rows of a stored tensor lie, shard by shard.
        rows_per: rows of each shard but the last.
        queue: reads under way at once, over all callers.
    """

    def __init__(
        self, extents: Callable[[str], list[Extent]], rows_per: int, *, queue: int = QUEUE
    ):
        self.rows_per, self.queue = rows_per, queue
        self._of, self._extents = extents, dict[str, list[Extent]]()
        self._open: dict[Path, int] = {}
        self._pool = ThreadPoolExecutor(queue, thread_name_prefix="latentsmith-read")

    def copy(self, part: str, rows: Tensor, out: Tensor) -> None:
        """Rows int64 [B], which must be there, of a stored tensor into ``out`` [B, …]. Several
        threads may call this at once.

        Raises:
            UserError: a file has become shorter.
        """
        target, extents = as_bytes(out), self._located(part)
        jobs = deque(
            (extents[shard], local, [target[i] for i in places])
            for shard, local, places in _runs(rows.numpy(), self.rows_per, target.shape[1])
        )

        def work() -> None:  # names no buffer: a thread keeps what it ran for a moment longer
            while jobs:
                try:
                    job = jobs.popleft()
                except IndexError:  # another thread was faster
                    return
                self._read(*job)

        for done in [self._pool.submit(work) for _ in range(min(self.queue, len(jobs)))]:
            done.result()

    def _read(self, extent: Extent, local: int, buffers: list[np.ndarray]) -> None:
        known = self._open.get(extent.file)
        fd = os.open(extent.file, os.O_RDONLY) if known is None else known
        try:
            _read_all(fd, buffers, extent.offset + local * extent.row_bytes, extent.file)
        finally:
            if known is None:
                self._keep(extent.file, fd)

    def _keep(self, file: Path, fd: int) -> None:
        if len(self._open) >= MOST_FILES or self._open.setdefault(file, fd) != fd:
            os.close(fd)

    def cached(self, part: str, rows: Tensor) -> bool:
        """Whether all of a sample of these rows are in memory; True where the system cannot tell.

        Asked with one byte from the middle of a row, to be given only if no disk is needed. (What
        `mincore` says of files of other users is always "yes".)
        """
        flag = getattr(os, "RWF_NOWAIT", None)
        if flag is None:
            return True
        one, extents = bytearray(1), self._located(part)
        for row in rows[:: max(1, len(rows) // PROBES)].tolist():
            extent, local = extents[row // self.rows_per], row % self.rows_per
            at = extent.offset + local * extent.row_bytes + extent.row_bytes // 2
            fd = self._open.get(extent.file)
            mine = os.open(extent.file, os.O_RDONLY) if fd is None else fd
            try:
                os.preadv(mine, [one], at, flag)
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                if fd is None:
                    self._keep(extent.file, mine)
        return True

    def _located(self, part: str) -> list[Extent]:
        found = self._extents.get(part)
        if found is None:
            found = self._extents[part] = self._of(part)
        return found

    def close(self) -> None:
        """End threads, close files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        while self._open:
            os.close(self._open.popitem()[1])


def _runs(rows: np.ndarray, rows_per: int, row_bytes: int) -> Iterator[tuple[int, int, list[int]]]:
    """Rows that lie side by side in a file: (shard, first row in it, places in the batch)."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    follows = (np.diff(ascending) == 1) & (ascending[1:] % rows_per != 0)
    longest = max(1, min(MOST_VECTORS, RUN_BYTES // max(row_bytes, 1)))
    begins = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(rows)]
    places, first = order.tolist(), ascending.tolist()
    for begin, end in itertools.pairwise(begins):
        for at in range(begin, end, longest):
            shard, local = divmod(first[at], rows_per)
            yield shard, local, places[at : min(at + longest, end)]


def _read_all(fd: int, buffers: list[np.ndarray], offset: int, file: Path) -> None:
    """Fill the buffers one after another; a read may give less than was asked for."""
    left = [b.data for b in buffers if b.nbytes]
    while left:
        got = os.preadv(fd, left, offset)
        if got == 0:
            raise UserError(
                f"{file} ends before its rows do: it was cut off. Remove it and run the command "
                "that wrote the store again; it makes what is missing"
            )
        offset += got
        while left and got >= len(left[0]):
            got -= len(left.pop(0))
        if got:
            left[0] = left[0][got:]
