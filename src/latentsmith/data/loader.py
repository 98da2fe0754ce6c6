"""Batches from a dataset: resumable from one integer, prefetched by threads.

Threads and not processes: PIL's decoders and torch's resize release the interpreter lock, and
threads need no pickling, no shared memory and no worker seeds. Nothing depends on their timing:
which samples make a batch comes from `order`, random transforms from `uniforms`.
"""

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from latentsmith.data.base import CorruptSample, Dataset, Sample
from latentsmith.data.collate import collate
from latentsmith.data.memory import MemoryDataset, can_gather
from latentsmith.data.order import order, rank_slice
from latentsmith.data.streams import uniforms
from latentsmith.data.transforms import Transform
from latentsmith.errors import UserError
from latentsmith.training.task import Batch

log = logging.getLogger(__name__)


class Column(Protocol):
    """What a column may be: a tensor [N, …], or anything that gives rows as one does (a field of
    a store, `latentsmith.stores.column`)."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, …)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class _Plan:
    """One batch to make: dataset indices [b], the random numbers of each [b, draws], and whether
    an unreadable sample is replaced (training) or left out (validation)."""

    indices: Tensor
    draws: Tensor
    replace: bool


@dataclass(frozen=True)
class _Read:
    """What became of one planned sample: None if it was left out; and what was unreadable."""

    sample: Sample | None
    corrupt: dict[int, str]


class Loader:
    """Batches of ``"index"`` int64 [B], ``"image"`` float32 [B, C, R, R] in [0, 1] and, where the
    dataset has them, ``"label"`` int64 [B] and more.

    Other keys of the dataset's samples are collated along (captions as ``list[str]``). Every key
    in the dataset's ``image_keys`` (default just ``"image"``) goes through the transform, with
    the same crop and flip.

    Args:
        dataset: raw samples.
        transform: what turns them into images of one size.
        batch_size: samples per *global* batch; a multiple of ``world_size``.
        seed: seeds order and random transforms.
        rank, world_size: which contiguous part of each global batch to make.
        columns: tensors [N, …], or columns of a store, whose rows are gathered into the batch by
            dataset index (cached reference vectors).
        shuffle: with False, epochs run through the dataset in order.
        corrupt_budget: how many different unreadable samples to put up with, per process.
        threads: decoding threads; default one per core, at most eight.
        prefetch: batches prepared ahead.

    Unreadable samples are logged by name and kept in ``corrupt`` (index → reason). `iterate`
    puts the next readable sample of the dataset in the place of one, always the same; `epoch`
    leaves it out, because a measurement must not count a stand-in. Beyond the budget: UserError.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        columns: Mapping[str, Column] | None = None,
        shuffle: bool = True,
        corrupt_budget: int = 16,
        threads: int | None = None,
        prefetch: int = 3,
    ):
        if len(dataset) == 0:
            raise UserError(f"dataset {dataset.name} is empty")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"batch_size={batch_size} cannot be shared by {world_size} processes: "
                f"give a positive multiple of {world_size}"
            )
        self.columns = dict(columns or {})
        for name, column in self.columns.items():
            if len(column) != len(dataset):
                raise UserError(
                    f"column {name!r} has {len(column)} rows, dataset {dataset.name} has "
                    f"{len(dataset)} samples: it was made from other data"
                )
        self.dataset, self.transform = dataset, transform
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.corrupt: dict[int, str] = {}
        self.corrupt_budget = corrupt_budget
        self.threads = threads or min(8, os.cpu_count() or 1)
        self.prefetch = prefetch
        self.image_keys: tuple[str, ...] = getattr(dataset, "image_keys", ("image",))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the stream of samples depends on, whatever batch size or number of ranks."""
        return {
            "dataset": self.dataset.name,
            "digest": self.dataset.digest,
            "n": len(self.dataset),
            "transform": self.transform.fingerprint(),
            "seed": self.seed,
            "shuffle": self.shuffle,
            "columns": {name: list(c.shape[1:]) for name, c in sorted(self.columns.items())},
        }

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """This rank's part of each global batch, forever, after ``start`` global samples."""
        return self._run(self._train_plans(start))

    def epoch(self) -> Iterator[Batch]:
        """Every sample once, in dataset order; the last batch may be smaller.

        With several ranks each gets its part of every batch; a part may be empty and is then not
        yielded. Random transforms draw the same numbers every time. ``"index"`` says which
        samples came: unreadable ones are missing.
        """
        return self._run(self._epoch_plans())

    def pick(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """The samples of each of ``batches`` (dataset indices int64 [b], any order), once.

        As `epoch` for chosen rows: unreadable samples are left out, a batch without any readable
        one is not yielded, and random transforms draw the numbers they draw in `epoch`.
        ``batch_size``, ``shuffle``, ``rank`` and ``world_size`` play no part.
        """
        return self._run(
            _Plan(rows, self._draws("transform-epoch", rows), replace=False) for rows in batches
        )

    def _train_plans(self, start: int) -> Iterator[_Plan]:
        part = rank_slice(self.batch_size, self.rank, self.world_size)
        for first in itertools.count(start, self.batch_size):
            low, count = first + part.start, part.stop - part.start
            indices = order(len(self.dataset), self.seed, low, count, shuffle=self.shuffle)
            positions = torch.arange(low, low + count)
            yield _Plan(indices, self._draws("transform", positions), replace=True)

    def _epoch_plans(self) -> Iterator[_Plan]:
        for batch in torch.arange(len(self.dataset)).split(self.batch_size):
            indices = batch[rank_slice(len(batch), self.rank, self.world_size)]
            if len(indices):
                yield _Plan(indices, self._draws("transform-epoch", indices), replace=False)

    def _draws(self, stream: str, positions: Tensor) -> Tensor:
        if self.transform.deterministic:
            return torch.empty(len(positions), 0)
        return uniforms((self.seed, stream), positions, self.transform.draws)

    def _run(self, plans: Iterator[_Plan]) -> Iterator[Batch]:
        if isinstance(self.dataset, MemoryDataset):  # nothing to wait for: a thread would only cost
            yield from map(self._gather, plans)
            return
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="latentsmith-decode")
        ahead: deque[list[Future[Any]]] = deque()
        try:
            for plan in plans:
                ahead.append(self._submit(pool, plan))
                if len(ahead) > self.prefetch:
                    yield from self._finish(ahead.popleft())
            while ahead:
                yield from self._finish(ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, plan: _Plan) -> list[Future[Any]]:
        if can_gather(self.dataset):
            return [pool.submit(self._gather, plan)]
        rows = zip(plan.indices.tolist(), plan.draws, strict=True)
        return [pool.submit(self._read, index, draws, plan.replace) for index, draws in rows]

    def _finish(self, futures: list[Future[Any]]) -> Iterator[Batch]:
        """At most one batch: none when every sample of it was left out."""
        results = [future.result() for future in futures]
        if not isinstance(results[0], _Read):
            yield results[0]
            return
        for read in results:
            self._report(read.corrupt)
        samples = [read.sample for read in results if read.sample is not None]
        if samples:
            batch = collate(samples)
            yield self._with_columns(batch, batch["index"])

    def _read(self, index: int, draws: Tensor, replace: bool) -> _Read:
        """Decode and transform one sample (in a thread)."""
        corrupt: dict[int, str] = {}
        while True:
            try:
                sample = dict(self.dataset[index])
                break
            except CorruptSample as error:
                corrupt[index] = str(error)
            if not replace or len(corrupt) > self.corrupt_budget:
                return _Read(None, corrupt)
            index = (index + 1) % len(self.dataset)
        for key in self.image_keys:
            sample[key] = self.transform.batch(sample[key][None], draws[None])[0]
        return _Read({"index": index, **sample}, corrupt)

    def _gather(self, plan: _Plan) -> Batch:
        assert can_gather(self.dataset)
        batch = dict(self.dataset.gather(plan.indices))
        for key in self.image_keys:
            batch[key] = self.transform.batch(batch[key], plan.draws)
        return self._with_columns({"index": plan.indices, **batch}, plan.indices)

    def _with_columns(self, batch: Batch, indices: Tensor) -> Batch:
        return batch | {name: column[indices] for name, column in self.columns.items()}

    def _report(self, corrupt: dict[int, str]) -> None:
        for index, reason in corrupt.items():
            if index not in self.corrupt:
                self.corrupt[index] = reason
                log.warning("unreadable sample %d of %s: %s", index, self.dataset.name, reason)
        if len(self.corrupt) > self.corrupt_budget:
            names = "\n  ".join(list(self.corrupt.values())[:20])
            raise UserError(
                f"{len(self.corrupt)} samples of {self.dataset.name} cannot be read; the budget "
                f"(corrupt_budget) is {self.corrupt_budget}:\n  {names}"
            )
