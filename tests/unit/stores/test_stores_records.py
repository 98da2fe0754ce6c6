"""LMDB's records are looked for once, and again where they may have moved."""

import os

import lmdb
import numpy as np
import pytest
import torch

from helpers.reading import make_store
from latentsmith.stores import gather
from latentsmith.stores.lmdb import LmdbStore

VALUES = {
    "mean": torch.randn(30, 3000, generator=torch.Generator().manual_seed(0)),  # pages of its own
    "label": torch.arange(30) << 40,  # in the tree's leaves
}


@pytest.fixture
def store(tmp_path):
    store = make_store(tmp_path / "store", VALUES, backend="lmdb")
    yield store
    store.close()


def looked_for(store, monkeypatch) -> list[int]:
    rows, find = [], LmdbStore._find
    monkeypatch.setattr(
        LmdbStore,
        "_find",
        lambda self, name, txn, row: rows.append(row) or find(self, name, txn, row),
    )
    return rows


def right(store, rows: list[int]) -> bool:
    found = store.gather(torch.tensor(rows, dtype=torch.int64))
    return all(torch.equal(found[name], values[rows]) for name, values in VALUES.items())


def test_each_record_is_looked_for_once(store, monkeypatch):
    rows = looked_for(store, monkeypatch)
    assert right(store, [4, 2, 2, 29, 0]) and sorted(rows) == [0, 0, 2, 2, 4, 4, 29, 29]
    assert right(store, [29, 4, 0, 7]) and rows[8:] == [7, 7]
    assert right(store, list(range(29, -1, -1))) and len(rows) == 2 * 30


def test_row_by_row_where_the_mapping_is_too_long(store, monkeypatch):
    monkeypatch.setattr(gather, "MOST_NUMBERS", 0)
    assert right(store, [4, 2, 2, 29, 0]) and right(store, [])


def test_after_closing_they_are_looked_for_again(store, monkeypatch):
    rows = looked_for(store, monkeypatch)
    assert right(store, [1, 2])
    store.close()
    assert right(store, [2, 1]) and len(rows) == 8


def test_a_file_that_was_written_to_is_looked_at_again(store, monkeypatch):
    """By another process, while it is open here."""
    assert right(store, [3, 4])
    rows = looked_for(store, monkeypatch)
    new = np.full(3000, 7, np.float32).tobytes()
    pid = os.fork()
    if pid == 0:
        env = lmdb.open(str(store.path), map_size=1 << 26, lock=False)
        with env.begin(write=True) as txn:
            txn.put(b"3", new)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    found = store.gather(torch.tensor([3, 4]))
    assert (found["mean"][0] == 7).all() and torch.equal(found["mean"][1], VALUES["mean"][4])
    assert sorted(rows) == [3, 3, 4, 4]


def test_a_forked_child_looks_in_its_own_mapping(store):
    assert right(store, [3, 4])
    pid = os.fork()
    if pid == 0:
        os._exit(0 if right(store, [4, 3, 9]) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert right(store, [9, 3])
