"""From one backend to the other."""

from pathlib import Path

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore, open_store
from latentsmith.stores.build import Backend, Progress, build_store


def convert_store(
    source: FeatureStore | Path | str,
    out: Path | str,
    to: Backend,
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> FeatureStore:
    """Copy a store into the other format (or into shards of another size); it resumes.

    Values are copied as they are read: the same bytes for every dtype but int8, which is coded
    again and may differ by one step of its code.

    Args:
        source: a store, or where one is. A stranger's LMDB file: an
            `latentsmith.stores.lmdb.LmdbStore` opened with ``fields``.

    Raises:
        UserError: ``out`` holds something else or is the source itself, the disk is full, or a
            sample cannot be read.
    """
    store = open_store(source) if isinstance(source, Path | str) else source
    if Path(out).exists() and Path(out).samefile(store.path):
        raise UserError(f"{out} is the store to convert: give another folder")

    def copy(rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        failed = {row: store.unreadable[row] for row in rows.tolist() if row in store.unreadable}
        kept = torch.tensor([r for r in rows.tolist() if r not in failed], dtype=torch.int64)
        return store.gather(kept), failed

    build_store(
        out,
        store.manifest,
        store.keys,
        copy,
        batch_size=batch_size,
        progress=progress,
        backend=to,
    )
    return open_store(out)
