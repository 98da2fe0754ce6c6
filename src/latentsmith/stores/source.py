"""Training batches straight from stores."""

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.order import order, rank_slice, windowed_order
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore
from latentsmith.stores.joined import Joined, JoinedReader, Read
from latentsmith.stores.ring import DEPTH, THREADS, BatchRing
from latentsmith.stores.shards import IN_MEMORY
from latentsmith.training.task import Batch
from latentsmith.utils.digest import state_digest


class StoreBatches:
    """Rows of stores in the order of `latentsmith.data.order`, as a
    `latentsmith.training.batches.BatchSource`.

    Batches of ``"index"`` int64 [B] (rows of the first store), every field [B, …] and every column
    [B, …]. Rows whose sample was unreadable, in any of the stores, are left out: the order is over
    the others. It does not depend on the number of ranks, nor on where reading began.

    A batch's memory is used again once nobody holds the batch; see `BatchRing`.

    Args:
        stores, fields, rows: see `Joined`.
        batch_size: samples per *global* batch; a multiple of ``world_size``.
        seed: of the order.
        rank, world_size: which contiguous part of each global batch to give.
        shuffle: with False, epochs run through the rows in order.
        columns: tensors [N, …] with a row for each row of the first store (labels).
        read: how to read, see `Read`.
        window: mix only so many shards of the first store at a time (see `windowed_order`). By
            default all, or, of a store that lies elsewhere and is larger than its room on this
            disk, what fits in half of that.
        depth, threads, pin, copy: of the ring. By default no threads where all that is read is
            kept in memory anyway: a thread would only cost.

    Raises:
        UserError: what `Joined` raises, a batch size that ranks cannot share, or a column of
            another length or with the name of a field.
    """

    def __init__(
        self,
        stores: Mapping[str, FeatureStore] | FeatureStore,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        columns: Mapping[str, Tensor] | None = None,
        fields: Sequence[str] | None = None,
        rows: Mapping[str, Tensor] | None = None,
        read: Read = "auto",
        window: int | None = None,
        depth: int = DEPTH,
        threads: int | None = None,
        pin: bool | None = None,
        copy: bool = False,
    ):
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {world_size} processes: "
                f"give a positive multiple of {world_size}"
            )
        self.joined = Joined(stores, fields=fields, rows=rows)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.columns = dict(columns or {})
        self._check_columns()
        if threads is None:
            threads = THREADS if self.joined.total_bytes > IN_MEMORY else 0
        self.read: Read = read
        self.window = _window(self.joined.first) if window is None else window
        self._ring = {"depth": depth, "threads": threads, "pin": pin, "copy": copy}

    def _check_columns(self) -> None:
        first = self.joined.first
        for name, column in self.columns.items():
            if len(column) != len(first):
                raise UserError(
                    f"column {name!r} has {len(column)} rows, the store {first.path} has "
                    f"{len(first)}: it was made from other data"
                )
            if name in self.joined.fields or name == "index":
                raise UserError(
                    f"the column {name!r} has the name of a field of {first.path}: choose another "
                    "name, or leave the field out (fields=…)"
                )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the stream of samples depends on, whatever batch size or number of ranks."""
        return {
            **self.joined.fingerprint(),
            "seed": self.seed,
            "shuffle": self.shuffle,
            **({} if self.window is None else {"window": self.window}),
            "columns": state_digest(self.columns) if self.columns else None,
        }

    def iterate(self, start: int = 0) -> Generator[Batch, None, None]:
        """This rank's part of each global batch, forever, after ``start`` global samples."""
        return self._run(self._endless(start))

    def epoch(self) -> Generator[Batch, None, None]:
        """Every readable row once, in order; the last batch may be smaller.

        With several ranks each gets its part of every batch; a part may be empty and is then not
        yielded.
        """
        return self._run(self._once())

    def _endless(self, start: int) -> Iterator[Tensor]:
        part = rank_slice(self.batch_size, self.rank, self.world_size)
        rows = self.joined.readable
        for first in itertools.count(start, self.batch_size):
            low, count = first + part.start, part.stop - part.start
            yield rows[self._order(len(rows), low, count)]

    def _order(self, n: int, low: int, count: int) -> Tensor:
        if self.window is None or not self.shuffle:
            return order(n, self.seed, low, count, shuffle=self.shuffle)
        first: Any = self.joined.first
        block = first.layout.rows_per_shard
        return windowed_order(n, self.seed, low, count, block=block, blocks=self.window)

    def _once(self) -> Iterator[Tensor]:
        for batch in self.joined.readable.split(self.batch_size):
            rows = batch[rank_slice(len(batch), self.rank, self.world_size)]
            if len(rows):
                yield rows

    def _run(self, plans: Iterable[Tensor]) -> Generator[Batch, None, None]:
        with BatchRing(JoinedReader(self.joined, self.read), plans, **self._ring) as ring:
            if not self.columns:
                yield from ring
                return
            for batch in ring:
                for name, column in self.columns.items():
                    batch[name] = torch.index_select(column, 0, batch["index"])
                yield batch


def _window(store: FeatureStore) -> int | None:
    """Shards to mix of a store that does not fit on this disk; None for all others."""
    room = getattr(store, "room", None)  # of a `RemoteStore`
    if room is None:
        return None
    remote: Any = store
    shard = max(remote.shard_bytes)
    if sum(remote.shard_bytes) <= room:
        return None
    return max(room // 2 // shard, 1)
