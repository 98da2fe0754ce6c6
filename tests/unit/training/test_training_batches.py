"""Cutting batches, also where samples carry dicts (captioned shapes' factors)."""

import pytest
import torch

from latentsmith.training.batches import rows, shard, split, to_device


def batch(n=4):
    return {
        "index": torch.arange(n),
        "caption": [f"c{i}" for i in range(n)],
        "factors": {"size": torch.arange(n) * 10, "names": {"shape": [f"s{i}" for i in range(n)]}},
    }


def test_every_level_is_cut_alike():
    part = rows(batch(), slice(1, 3))
    assert part["index"].tolist() == [1, 2]
    assert part["caption"] == ["c1", "c2"]
    assert part["factors"]["size"].tolist() == [10, 20]
    assert part["factors"]["names"]["shape"] == ["s1", "s2"]


def test_split_and_shard_cover_the_batch():
    halves = split(batch(), 2)
    assert [h["index"].tolist() for h in halves] == [[0, 1], [2, 3]]
    assert halves[1]["factors"]["size"].tolist() == [20, 30]
    assert shard(batch(), 1, 2)["factors"]["names"]["shape"] == ["s2", "s3"]


def test_every_sample_is_in_one_share():
    """A held-out batch may be of any size; parts differ by at most one."""
    parts = [shard(batch(8), rank, 3)["index"].tolist() for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(8)) and sorted(map(len, parts)) == [
        2,
        3,
        3,
    ]
    with pytest.raises(ValueError, match="2 samples cannot be spread over 3 processes"):
        shard(batch(2), 0, 3)


def test_what_is_not_per_sample_is_named():
    wrong = batch() | {"factors": {"size": torch.arange(3)}}
    with pytest.raises(ValueError, match=r"batch\['factors'\]\['size'\] has no length 4"):
        split(wrong, 2)


def test_tensors_inside_dicts_move_too():
    moved = to_device(batch(), torch.device("meta"))
    assert moved["factors"]["size"].device.type == "meta"
    assert moved["caption"] == batch()["caption"]
