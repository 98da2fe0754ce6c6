"""Shards: what was written is what is read, whatever the cut."""

import pytest
import torch

from latentsmith.stores import shards
from latentsmith.stores.base import FieldSpec, StoreManifest, open_store
from latentsmith.stores.build import build_store


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
@pytest.mark.parametrize("rows_per_shard", [1, 7, 100])
def test_what_was_computed_is_what_is_gathered(tmp_path, monkeypatch, rows_per_shard, in_memory):
    monkeypatch.setattr(shards, "IN_MEMORY", in_memory)
    values = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
    manifest = StoreManifest("latents", {"mean": FieldSpec((2, 3), "float32")}, 40, {}, {})
    done = build_store(
        tmp_path / "store",
        manifest,
        [f"image {row}" for row in range(40)],
        lambda rows: ({"mean": values[rows]}, {}),
        batch_size=3,
        rows_per_shard=rows_per_shard,
    )
    assert done
    store = open_store(tmp_path / "store")
    rows = torch.tensor([39, 0, 7, 7, 20])
    assert torch.equal(store.gather(rows)["mean"], values[rows])
    assert store.rows(["image 12", "image 3"]).tolist() == [12, 3]
    assert store.manifest == manifest
