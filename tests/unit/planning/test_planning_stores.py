"""Sizes from a layout, against stores that were written."""

from pathlib import Path

import pytest
import torch

from latentsmith.planning.stores import store_size
from latentsmith.stores.base import FieldSpec, StoreManifest
from latentsmith.stores.lmdb_writer import LmdbWriter
from latentsmith.stores.writer import ShardWriter

LATENTS = {"mean": FieldSpec((4, 16, 16), "float16"), "label": FieldSpec((), "int64")}
TOKENS = {"tokens": FieldSpec((16, 64), "int8")}
VECTORS = {"vector": FieldSpec((24,), "float32")}
STORES = [(LATENTS, 3000), (TOKENS, 2000), (VECTORS, 20_000)]


def written(writer_class, path: Path, fields: dict[str, FieldSpec], rows: int) -> int:
    """Bytes on disk of a store with such rows."""
    manifest = StoreManifest("latents", fields, rows, {"kind": "x"}, {"name": "y"})
    writer = writer_class(path, manifest, [f"{i:07}" for i in range(rows)])
    for shard in range(writer.layout.shards):
        n = len(writer.positions(shard))
        writer.write(shard, {f: torch.rand(n, *s.shape).to(s.dtype) for f, s in fields.items()})
    assert writer.finish()
    return sum(f.stat().st_size for f in path.iterdir() if f.name != "lock.mdb")


@pytest.mark.parametrize(("fields", "rows"), STORES)
def test_shards_take_what_is_said(tmp_path, fields, rows):
    size = store_size(fields, rows)
    assert written(ShardWriter, tmp_path, fields, rows) == pytest.approx(size.total, rel=0.01)
    assert len(list(tmp_path.iterdir())) == size.files
    assert len(list(tmp_path.glob("shard-*.safetensors"))) == size.shards


@pytest.mark.parametrize(("fields", "rows"), STORES)
def test_lmdb_takes_about_what_is_said(tmp_path, fields, rows):
    size = store_size(fields, rows)
    assert written(LmdbWriter, tmp_path, fields, rows) == pytest.approx(size.lmdb, rel=0.2)


def test_records_of_the_source():
    """Latents of 32 KiB take nine pages of 4 KiB, tokens of 512 KiB 129."""
    latents = store_size({"latent": FieldSpec((4, 64, 64), "float16")}, 200_000)
    tokens = store_size({"tokens": FieldSpec((256, 1024), "float16")}, 200_000)
    assert latents.payload == 6_553_600_000 and tokens.payload == 104_857_600_000
    assert latents.lmdb / latents.payload == pytest.approx(1.126, abs=0.005)
    assert tokens.lmdb / tokens.payload == pytest.approx(1.008, abs=0.002)
    assert latents.total / latents.payload < 1.002
    assert (latents.shards, tokens.shards) == (64, 782)
