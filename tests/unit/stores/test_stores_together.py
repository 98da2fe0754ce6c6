"""Ranks that share a disk, at the instants when one comes between another's steps."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from helpers.stores import computing, keys_of, manifest_of, table
from latentsmith.stores import writer
from latentsmith.stores.base import open_store
from latentsmith.stores.writer import ShardWriter

KNOWN = table(8)


@pytest.fixture
def rank(tmp_path):
    """Rank r of two that write KNOWN, four rows to a shard."""

    def make(r: int) -> ShardWriter:
        manifest, keys = manifest_of(KNOWN), keys_of(8)
        return ShardWriter(tmp_path, manifest, keys, rows_per_shard=4, rank=r, world_size=2)

    return make


def fill(of: ShardWriter, shard: int) -> None:
    rows = torch.arange(shard * 4, shard * 4 + 4)
    of.write(shard, computing(KNOWN)(rows)[0])


def test_two_that_finish_at_once(rank, tmp_path, monkeypatch):
    """The second finishes, and clears up, while the first writes a file."""
    first, second = rank(0), rank(1)
    fill(first, 0)
    fill(second, 1)

    def as_safetensors_does(tensors, path):
        monkeypatch.undo()
        aside = Path(path).with_name(".tmpa1B2c3")
        aside.write_bytes(save(tensors))
        assert second.finish()
        aside.replace(path)

    monkeypatch.setattr(writer, "save_file", as_safetensors_does)
    assert first.finish() and second.finish()
    assert torch.equal(open_store(tmp_path).gather(torch.arange(8))["label"], torch.arange(8))


def test_one_that_begins_while_another_begins(rank, monkeypatch):
    """Between its looks for a claim and for strangers' shards, another claims and fills one."""
    look = ShardWriter._refuse_strangers

    def late(self):
        monkeypatch.undo()
        fill(rank(0), 0)
        look(self)

    monkeypatch.setattr(ShardWriter, "_refuse_strangers", late)
    assert rank(1).absent() == [1]
