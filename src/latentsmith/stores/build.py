"""Filling a store by batches."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import StoreManifest
from latentsmith.stores.layout import Layout, row_bytes
from latentsmith.stores.writer import ShardWriter
from latentsmith.utils.counter import Counter
from latentsmith.utils.distributed import is_distributed, raise_together
from latentsmith.utils.files import require_free
from latentsmith.utils.lock import alone
from latentsmith.utils.patience import Pauses

Progress = Callable[[int, int], None]
"""Called with (rows done by this rank, rows this rank owes)."""

Compute = Callable[[Tensor], tuple[dict[str, Tensor], dict[int, str]]]
"""Rows int64 [B] → (field → values of the readable rows, [b, …] in order; row → why unreadable).
One with ``plan(batches)`` is told first which rows it will be asked for, in order."""

Backend = Literal["shards", "lmdb"]
"""How a store lies on disk."""


class Writer(Protocol):
    """What `build_store` asks of a backend; see `ShardWriter`."""

    path: Path
    manifest: StoreManifest
    layout: Layout

    def absent(self) -> list[int]:
        """Shards that are missing, of any rank."""
        ...

    def missing(self) -> list[int]:
        """Shards this rank still owes."""
        ...

    def take(self, shard: int) -> bool:
        """Whether this process now makes a shard; False where another does, or did."""
        ...

    def take_over(self) -> int | None:
        """A shard that nobody makes, now taken."""
        ...

    def renew(self) -> None:
        """A sign of life to other ranks."""
        ...

    def positions(self, shard: int) -> range:
        """Row numbers of a shard."""
        ...

    def write(
        self,
        shard: int,
        values: Mapping[str, Tensor],
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        """Commit a shard."""
        ...

    def finish(self) -> bool:
        """Join all shards; False while some are missing."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


POLL_SECONDS = 1.0
"""How often, in the end, a rank that is done looks whether the others are."""


def build_store(
    path: Path | str,
    manifest: StoreManifest,
    keys: Sequence[str],
    compute: Compute,
    *,
    batch_size: int = 32,
    rows_per_shard: int | None = None,
    shard_bytes: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
    backend: Backend = "shards",
) -> bool:
    """Compute and write missing shards: this rank's, then those that others have not begun. A shard
    is written while the next is computed.

    Ranks of a process group all call this, and return when the store is finished; one rank's
    UserError is raised on all. Without a process group (an array of jobs that share a disk) each
    rank returns when its own part is done, and whichever is last finishes the store.

    Args:
        rows_per_shard, shard_bytes: see `ShardWriter`.
        backend: ``lmdb``, the sources' format, is written by one rank only.
        progress: called after each batch; by default a bar or lines with the time left are shown.

    Returns:
        Whether the store is finished.

    Raises:
        UserError: another store is in the folder, not enough room on the disk, or what `compute`
            and `ShardWriter.write` raise.
    """
    check_place(Path(path))
    # One writer who owns every shard shares them with nobody, not even with another process.
    with alone(Path(path)) if world_size == 1 else contextlib.nullcontext():
        if backend == "lmdb":
            from latentsmith.stores.lmdb_writer import is_finished

            if is_finished(Path(path), manifest, keys):
                return True
        make = functools.partial(
            _writer_of(backend),
            path,
            manifest,
            keys,
            rows_per_shard=rows_per_shard,
            shard_bytes=shard_bytes,
            rank=rank,
            world_size=world_size,
        )
        return _build(_Team(Path(path), rank, world_size), make, compute, batch_size, progress)


def _build(
    team: "_Team",
    make: Callable[[], Writer],
    compute: Compute,
    batch_size: int,
    progress: Progress | None,
) -> bool:
    with team.step():
        writer = make()
        team.clear()
    try:
        with team.step():
            _check_room(writer)
        with team.step(wait=lambda: not writer.absent()):
            _fill(writer, compute, batch_size, progress, team.others_work)
        return writer.finish()
    finally:
        writer.close()


def _writer_of(backend: Backend) -> Callable[..., Writer]:
    if backend == "shards":
        return ShardWriter
    from latentsmith.stores.lmdb_writer import LmdbWriter

    return LmdbWriter


OWN_NAMES = re.compile(
    r"\..*|claim(-\d+)?\.json|manifest\.json|keys\.safetensors|shard-.*|failed-\d+"
    r"|(data|lock)\.mdb"
)
"""What may lie in the folder of a store that is just begun."""


def check_place(path: Path) -> None:
    """Raises UserError for a place where a store would be mixed with other things."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a store is a folder: give another place")
    begun = (path / "claim.json").is_file() or (path / "data.mdb").is_file()
    if not path.is_dir() or begun:
        return
    strange = sorted(file.name for file in path.iterdir() if not OWN_NAMES.fullmatch(file.name))
    if strange:
        raise UserError(
            f"{path} is no store and not empty (it holds {strange[0]}): give a new or empty folder"
        )


class _Team:
    """The ranks that write a store; one, unless they have a process group.

    Ranks wait for each other by looking at the disk: one may be hours behind, and collectives
    give up after minutes.
    """

    def __init__(self, path: Path, rank: int, world_size: int):
        self.path, self.rank = path, rank
        self.together = world_size > 1 and is_distributed()

    @contextlib.contextmanager
    def step(self, wait: Callable[[], bool] | None = None) -> Iterator[None]:
        """Do something on each rank; a UserError of one is raised on all.

        Args:
            wait: true when nothing is left for others to do.
        """
        error = None
        try:
            yield
            pauses = Pauses(longest=POLL_SECONDS)
            while wait is not None and self.others_work(wait):
                pauses.sleep()
        except BaseException as own:
            if not self.together:
                raise
            with contextlib.suppress(OSError):  # then the others wait for a time-out
                self._mark(self.rank).touch()
            if not isinstance(own, UserError):
                raise
            error = own
        if self.together:
            try:
                raise_together(error)
            finally:  # all are here, nobody looks for it any more
                self._mark(self.rank).unlink(missing_ok=True)

    def others_work(self, done: Callable[[], bool]) -> bool:
        """Whether others are at it: they may leave something to do, if they do not live to its
        end."""
        return self.together and not (done() or self._somebody_failed())

    def _mark(self, rank: int | str) -> Path:
        return self.path / f"failed-{rank}"

    def _somebody_failed(self) -> bool:
        return any(self.path.glob(self._mark("*").name))

    def clear(self) -> None:
        """Remove what an earlier run left; before `step` ends, and so before anyone waits."""
        for mark in self.path.glob(self._mark("*").name):
            mark.unlink(missing_ok=True)


def _check_room(writer: Writer) -> None:
    """All ranks' missing shards must fit: they share the disk."""
    rows = sum(len(writer.positions(shard)) for shard in writer.absent())
    one = sum(row_bytes(spec) for spec in writer.manifest.fields.values())
    what = f"for {rows:,} rows of {one / 1e3:,.1f} kB"
    require_free(writer.path, rows * one, what, "or put the store on another disk")


Others = Callable[[Callable[[], bool]], bool]
"""See `_Team.others_work`."""


def _fill(
    writer: Writer, compute: Compute, batch_size: int, progress: Progress | None, others: Others
) -> None:
    own = writer.missing()
    owed, done, written = sum(len(writer.positions(shard)) for shard in own), 0, None
    with _told(writer, owed, progress) as tell, ThreadPoolExecutor(1) as thread:
        for shard, batches in _taken(writer, own, compute, batch_size, others):
            if shard not in own:
                owed += len(writer.positions(shard))
            values, unreadable = _buffers(writer, len(writer.positions(shard))), {}
            for batch in batches:
                _put(values, batch, writer.positions(shard).start, compute(batch), unreadable)
                writer.renew()
                done += len(batch)
                tell(done, owed)
            if written is not None:
                written.result()  # at most one shard waits to be written: memory is bounded
            written = thread.submit(writer.write, shard, values, unreadable)
        if written is not None:
            written.result()


def _taken(
    writer: Writer, own: list[int], compute: Compute, batch_size: int, others: Others
) -> Iterator[tuple[int, Sequence[Tensor]]]:
    """Shards that this process is to make, and their rows in batches, as they are taken: its own,
    then those of others, and what others leave when they die. ``compute`` is told ahead what it
    will be asked for."""
    plan = getattr(compute, "plan", None)
    batches = {
        shard: torch.tensor(writer.positions(shard), dtype=torch.int64).split(batch_size)
        for shard in own
    }
    told = False
    for shard in own:
        if not writer.take(shard):
            told = False  # another was faster: what follows is told anew
            continue
        if plan is not None and not told:
            plan([batch for s in own if s >= shard for batch in batches[s]])
            told = True
        yield shard, batches[shard]
    while (other := _left(writer, others)) is not None:
        rows = torch.tensor(writer.positions(other), dtype=torch.int64).split(batch_size)
        if plan is not None:
            plan(list(rows))
        yield other, rows


def _left(writer: Writer, others: Others) -> int | None:
    """A shard that nobody makes; None when there will be none."""
    pauses = Pauses(longest=POLL_SECONDS)
    while (shard := writer.take_over()) is None and others(lambda: not writer.absent()):
        pauses.sleep()
    return shard


@contextlib.contextmanager
def _told(writer: Writer, owed: int, progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with Counter(f"writing {writer.path.name}", owed) as count:
        yield lambda done, _: count(done)


def _buffers(writer: Writer, rows: int) -> dict[str, Tensor]:
    fields = writer.manifest.fields
    return {n: torch.zeros((rows, *spec.shape), dtype=spec.dtype) for n, spec in fields.items()}


def _put(
    values: dict[str, Tensor],
    batch: Tensor,
    first: int,
    computed: tuple[dict[str, Tensor], dict[int, str]],
    unreadable: dict[int, str],
) -> None:
    """Put one batch's results where its rows lie in a shard that begins at row ``first``."""
    found, failed = computed
    unreadable |= failed
    kept = torch.tensor([row for row in batch.tolist() if row not in failed], dtype=torch.int64)
    if not len(kept):
        return
    if set(found) != set(values):
        raise ValueError(f"computed fields {sorted(found)}, not {sorted(values)}")
    for name, buffer in values.items():
        if len(found[name]) != len(kept):
            raise ValueError(f"{len(found[name])} rows of {name} for {len(kept)} readable samples")
        buffer.index_copy_(0, kept - first, found[name].to("cpu", buffer.dtype))
