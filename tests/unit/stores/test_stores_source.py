"""Batches from stores: every row right, in an order that depends on nothing but the seed."""

import itertools
import json

import pytest
import torch

from helpers.reading import make_store
from latentsmith.data.order import order
from latentsmith.errors import UserError
from latentsmith.stores import joined, shards
from latentsmith.stores import source as sources
from latentsmith.stores.source import StoreBatches

N = 45


def some(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(N, *shape, generator=torch.Generator().manual_seed(seed))
    return (noise * 50).to(dtype)


VALUES = {
    "mean": some(torch.float16, 4, 3, 3),
    "logvar": some(torch.bfloat16, 4, 3, 3, seed=1),
    "exact": some(torch.float32, 5, seed=2),
    "label": some(torch.int64),
}
READS = ["mmap", "pread", "auto"]


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", VALUES)


@pytest.fixture
def nothing_in_memory(monkeypatch):
    for module in (shards, joined, sources):
        monkeypatch.setattr(module, "IN_MEMORY", 0)


def indices(batches, count: int) -> list[int]:
    taken = [b["index"] for b in itertools.islice(batches, count)]
    batches.close()
    return torch.cat(taken).tolist()


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("threads", [0, 2])
def test_every_field_is_that_of_its_row(tmp_path, nothing_in_memory, backend, read, threads):
    store = make_store(tmp_path / "store", VALUES, backend=backend)
    batches = StoreBatches(store, batch_size=8, seed=3, read=read, threads=threads)
    stream = batches.iterate(16)
    for step, batch in enumerate(itertools.islice(stream, 12)):
        assert torch.equal(batch["index"], order(N, 3, 16 + 8 * step, 8))
        assert set(batch) == {"index", *VALUES}
        for name, values in VALUES.items():
            assert batch[name].dtype == values.dtype
            assert torch.equal(batch[name], values[batch["index"]])
    stream.close()
    store.close()


def test_int8_is_what_gather_gives(tmp_path, nothing_in_memory):
    store = make_store(tmp_path / "store", {"mean": VALUES["mean"]}, int8=("mean",))
    for read in READS:
        stream = StoreBatches(store, batch_size=8, seed=3, read=read).iterate(0)
        for batch in itertools.islice(stream, 5):
            assert torch.equal(batch["mean"], store.gather(batch["index"])["mean"])
        stream.close()


@pytest.mark.parametrize("shuffle", [True, False])
def test_going_on_is_never_having_stopped(store, shuffle):
    """From any number of samples, also in the middle of a batch, over epochs."""
    batches = StoreBatches(store, batch_size=6, seed=1, shuffle=shuffle)
    whole = indices(batches.iterate(0), 20)
    for start in (0, 6, 13, 44, 45, 60):
        assert indices(batches.iterate(start), 8) == whole[start : start + 48]
    assert sorted(whole[:N]) == sorted(whole[N : 2 * N]) == list(range(N))
    assert (whole[:N] == list(range(N))) == (not shuffle)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_give_the_same_global_batches(store, world_size):
    alone = StoreBatches(store, batch_size=12, seed=5)
    ranks = [
        StoreBatches(store, batch_size=12, seed=5, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    assert len({json.dumps(r.fingerprint) for r in [alone, *ranks]}) == 1
    streams = [r.iterate(24) for r in ranks]
    for batch, *parts in itertools.islice(zip(alone.iterate(24), *streams, strict=True), 9):
        for name in batch:
            assert torch.equal(batch[name], torch.cat([part[name] for part in parts]))
    whole = torch.cat([batch["index"] for batch in alone.epoch()])
    epochs = [{int(b["index"][0]): b["index"] for b in r.epoch()} for r in ranks]
    joint = {first: rows for epoch in epochs for first, rows in epoch.items()}
    assert torch.equal(torch.cat([joint[first] for first in sorted(joint)]), whole)


def test_an_epoch_is_every_row_once_and_may_be_kept(store, nothing_in_memory):
    found = list(StoreBatches(store, batch_size=7, seed=0).epoch())
    assert [len(b["index"]) for b in found] == [7] * 6 + [3]
    assert torch.cat([b["index"] for b in found]).tolist() == list(range(N))
    assert torch.equal(torch.cat([b["mean"] for b in found]), VALUES["mean"])
    last = StoreBatches(store, batch_size=44, seed=0, rank=0, world_size=2)
    assert [len(b["index"]) for b in last.epoch()] == [22], "an empty part is not given"


def test_unreadable_rows_are_left_out_of_every_epoch(tmp_path):
    bad = {0: "cut off", 17: "no image", 44: "cut off"}
    store = make_store(tmp_path / "store", VALUES, unreadable=bad)
    good = [row for row in range(N) if row not in bad]
    batches = StoreBatches(store, batch_size=6, seed=2)
    assert [r for b in batches.epoch() for r in b["index"].tolist()] == good
    rows = indices(batches.iterate(0), 14)
    wanted = [good[at] for at in order(len(good), 2, 0, 84).tolist()]
    assert rows == wanted and sorted(rows[: len(good)]) == good
    for batch in itertools.islice(batches.iterate(0), 8):
        assert torch.equal(batch["mean"], VALUES["mean"][batch["index"]])
    whole = make_store(tmp_path / "whole", VALUES)
    assert batches.fingerprint != StoreBatches(whole, batch_size=6, seed=2).fingerprint
    assert batches.fingerprint["n"] == 42
    others = make_store(tmp_path / "others", VALUES, unreadable=dict.fromkeys([0, 17, 43], "x"))
    assert batches.fingerprint != StoreBatches(others, batch_size=6, seed=2).fingerprint


def test_columns_go_by_row(store):
    label, extra = torch.arange(N) * 3, some(torch.bfloat16, 2, seed=9)
    batches = StoreBatches(
        store, batch_size=10, seed=0, fields=["mean"], columns={"label": label, "extra": extra}
    )
    kept = list(itertools.islice(batches.iterate(0), 9))
    for batch in kept:
        assert set(batch) == {"index", "mean", "label", "extra"}
        assert torch.equal(batch["label"], batch["index"] * 3)
        assert torch.equal(batch["extra"], extra[batch["index"]])
    other = StoreBatches(store, batch_size=10, seed=0, fields=["mean"], columns={"label": label})
    assert other.fingerprint != batches.fingerprint
    with pytest.raises(UserError, match="column 'label' has 44 rows"):
        StoreBatches(store, batch_size=10, seed=0, columns={"label": label[1:]})
    for name in ("label", "index"):
        with pytest.raises(UserError, match=f"column '{name}' has the name of a field"):
            StoreBatches(store, batch_size=10, seed=0, columns={name: label})


def test_buffers_are_used_again(store, nothing_in_memory):
    for columns in ({}, {"other": torch.arange(N)}):
        stream = StoreBatches(
            store, batch_size=8, seed=0, depth=5, threads=1, columns=columns
        ).iterate(0)
        addresses = {batch["mean"].data_ptr() for batch in itertools.islice(stream, 40)}
        stream.close()
        assert len(addresses) == 5


def test_small_stores_need_no_thread(store, nothing_in_memory, monkeypatch):
    assert StoreBatches(store, batch_size=5, seed=0)._ring["threads"] == 2
    monkeypatch.setattr(sources, "IN_MEMORY", 1 << 20)
    assert StoreBatches(store, batch_size=5, seed=0)._ring["threads"] == 0


def test_batch_sizes_that_cannot_be_shared(store):
    for size, world in [(0, 1), (10, 3), (-2, 1)]:
        with pytest.raises(UserError, match=f"batch_size={size} cannot be shared"):
            StoreBatches(store, batch_size=size, seed=0, world_size=world)


def test_the_fingerprint_names_all_the_order_depends_on(tmp_path, store):
    base = {"batch_size": 5, "seed": 0}
    first = StoreBatches(store, **base).fingerprint
    json.dumps(first)
    assert StoreBatches(store, **base | {"batch_size": 9}).fingerprint == first
    for other in ({"seed": 1}, {"shuffle": False}, {"fields": ["mean"]}):
        assert StoreBatches(store, **base | other).fingerprint != first
    moved = make_store(tmp_path / "other", VALUES, digest="other")
    assert StoreBatches(moved, **base).fingerprint != first
