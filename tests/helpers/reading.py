"""Stores of given values."""

from pathlib import Path

import torch
from torch import Tensor

from latentsmith.stores.base import FeatureStore, FieldSpec, Stored, StoreManifest, open_store
from latentsmith.stores.build import Backend, build_store

NAMES: dict[torch.dtype, Stored] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
}


def make_store(
    path: Path,
    values: dict[str, Tensor],
    *,
    keys: list[str] | None = None,
    unreadable: dict[int, str] | None = None,
    digest: str = "data",
    rows_per_shard: int = 7,
    backend: Backend = "shards",
    int8: tuple[str, ...] = (),
) -> FeatureStore:
    """A finished store of these values [N, …].

    Args:
        int8: fields that are stored so.
    """
    count = len(next(iter(values.values())))
    bad = unreadable or {}
    fields = {
        name: FieldSpec(tuple(v.shape[1:]), "int8" if name in int8 else NAMES[v.dtype])
        for name, v in values.items()
    }
    source = {"name": f"data {digest}", "digest": digest, "count": count}
    manifest = StoreManifest("latents", fields, count, {}, source)

    def compute(rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        good = torch.tensor([r for r in rows.tolist() if r not in bad], dtype=torch.int64)
        found = {name: v[good] for name, v in values.items()}
        return found, {r: bad[r] for r in rows.tolist() if r in bad}

    build_store(
        path, manifest, keys or [str(row) for row in range(count)], compute, batch_size=5,
        rows_per_shard=rows_per_shard, backend=backend, progress=lambda done, owed: None,
    )  # fmt: skip
    return open_store(path)
