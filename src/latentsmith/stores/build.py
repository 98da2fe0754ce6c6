"""Filling a store by batches."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import StoreManifest
from latentsmith.stores.layout import row_bytes
from latentsmith.stores.writer import ShardWriter
from latentsmith.utils.distributed import is_distributed, raise_together
from latentsmith.utils.files import require_free

Progress = Callable[[int, int], None]
"""Called with (rows done by this rank, rows this rank owes)."""

Compute = Callable[[Tensor], tuple[dict[str, Tensor], dict[int, str]]]
"""Rows int64 [B] → (field → values of the readable rows, [b, …] in order; row → why unreadable).
One with ``plan(batches)`` is told first which rows it will be asked for, in order."""


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
) -> bool:
    """Compute and write this rank's missing shards.

    With a process group all ranks must call this, and return when the store is finished; one
    rank's UserError is raised on all. Without one (an array of jobs that share a disk) each rank
    returns when its own part is done, and whichever is last finishes the store.

    Returns:
        Whether the store is finished.

    Raises:
        UserError: another store is in the folder, not enough room on the disk, or what `compute`
            and `ShardWriter.write` raise.
    """
    error: UserError | None = None
    finished = False
    try:
        writer = ShardWriter(
            path,
            manifest,
            keys,
            rows_per_shard=rows_per_shard,
            shard_bytes=shard_bytes,
            rank=rank,
            world_size=world_size,
        )
        _fill(writer, compute, batch_size, progress)
        finished = writer.finish()
    except UserError as own:
        error = own
    raise_together(error)
    if is_distributed():
        finished = writer.finish()  # all have written by now
    return finished


def _fill(
    writer: ShardWriter, compute: Compute, batch_size: int, progress: Progress | None
) -> None:
    missing = writer.missing()
    rows = [torch.tensor(writer.positions(shard), dtype=torch.int64) for shard in missing]
    owed = sum(len(r) for r in rows)
    needed = owed * sum(row_bytes(spec) for spec in writer.manifest.fields.values())
    what = f"for {owed:,} rows of {needed / max(owed, 1) / 1e3:,.1f} kB"
    require_free(writer.path, needed, what, "or put the store on another disk")
    plan = getattr(compute, "plan", None)
    if plan is not None and missing:
        plan([batch for r in rows for batch in r.split(batch_size)])
    done = 0
    for shard, own in zip(missing, rows, strict=True):
        values, unreadable = _buffers(writer, len(own)), {}
        for batch in own.split(batch_size):
            _put(writer, values, batch, own, compute(batch), unreadable)
            done += len(batch)
            if progress is not None:
                progress(done, owed)
        writer.write(shard, values, unreadable)


def _buffers(writer: ShardWriter, rows: int) -> dict[str, Tensor]:
    fields = writer.manifest.fields
    return {n: torch.zeros((rows, *spec.shape), dtype=spec.dtype) for n, spec in fields.items()}


def _put(
    writer: ShardWriter,
    values: dict[str, Tensor],
    batch: Tensor,
    own: Tensor,
    computed: tuple[dict[str, Tensor], dict[int, str]],
    unreadable: dict[int, str],
) -> None:
    """Put one batch's results where its rows lie in the shard."""
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
        buffer[kept - own[0]] = found[name].to("cpu", buffer.dtype)
