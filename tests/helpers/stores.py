"""Small stores with known contents.

from helpers.stores import table, write

known = table(40, "float16")           # fields → what each row holds
store = write(tmp_path / "s", known, backend="lmdb", unreadable={3: "broken file"})
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.stores.base import FeatureStore, FieldSpec, StoreManifest, open_store
from latentsmith.stores.build import Backend, build_store


def table(count: int, stored: str = "float16", seed: int = 0) -> dict[str, tuple[Tensor, str]]:
    """A field of two dimensions and one of one, both as ``stored``, and labels."""
    rng = torch.Generator().manual_seed(seed)
    if stored == "int64":
        wide = torch.randint(-9, 9, (count, 3, 5), generator=rng)
        return {"grid": (wide, stored), "label": (torch.arange(count), "int64")}
    return {
        "tokens": (torch.randn(count, 6, 4, generator=rng) + 0.1, stored),
        "vector": (torch.randn(count, 7, generator=rng), stored),
        "label": (torch.arange(count), "int64"),
    }


def keys_of(count: int) -> list[str]:
    """Keys that are not in sorted order, of unequal length, not all ASCII."""
    return [f"n{(row * 7) % count:03d}_größe{row}" for row in range(count)]


def manifest_of(
    known: Mapping[str, tuple[Tensor, str]], content="tokens", **extra
) -> StoreManifest:
    """What describes a table."""
    fields = {n: FieldSpec(tuple(v.shape[1:]), stored) for n, (v, stored) in known.items()}
    count = len(next(iter(known.values()))[0])
    source = {"name": "toy", "digest": "0", "count": count}
    return StoreManifest(content, fields, count, {"kind": "toy"}, source, {}, dict(extra))


def computing(known: Mapping[str, tuple[Tensor, str]], unreadable: Mapping[int, str] = {}):
    """What `build_store` calls."""

    def compute(rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        failed = {r: unreadable[r] for r in rows.tolist() if r in unreadable}
        kept = torch.tensor([r for r in rows.tolist() if r not in failed], dtype=torch.int64)
        return ({n: v[kept] for n, (v, _) in known.items()} if len(kept) else {}), failed

    return compute


def write(
    path: Path,
    known: Mapping[str, tuple[Tensor, str]],
    *,
    backend: Backend = "shards",
    unreadable: Mapping[int, str] = {},
    rows_per_shard: int | None = 9,
    content="tokens",
    **extra,
) -> FeatureStore:
    """A finished store."""
    manifest = manifest_of(known, content, **extra)
    assert build_store(
        path,
        manifest,
        keys_of(manifest.count),
        computing(known, unreadable),
        batch_size=4,
        rows_per_shard=rows_per_shard,
        backend=backend,
    )
    return open_store(path)
