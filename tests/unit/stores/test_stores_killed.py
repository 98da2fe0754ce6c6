"""On a full disk, by another number of ranks: nothing is lost, nothing is computed twice, nothing
is half. (Killed at any instant: tests/faults.)"""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.ranks import run_ranks
from helpers.stores import computing, keys_of, manifest_of, table
from latentsmith.errors import UserError
from latentsmith.stores.base import open_store
from latentsmith.stores.build import build_store
from latentsmith.stores.leases import Leases
from latentsmith.stores.verify import verify_store
from latentsmith.stores.writer import ShardWriter

COUNT = 60


def arguments(known, unreadable=()):
    return manifest_of(known), keys_of(COUNT), computing(known, dict.fromkeys(unreadable, "gone"))


@pytest.mark.parametrize("call", range(1, 12))
def test_a_disk_that_fills_up_is_told_and_the_store_goes_on(tmp_path, monkeypatch, call):
    """Every fsync in turn fails as on a full disk."""
    known, fsync, calls = table(COUNT), os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    manifest, keys, compute = arguments(known)
    with pytest.raises(UserError, match=r"disk of .* is full .*free some and run the same command"):
        build_store(tmp_path / "s", manifest, keys, compute, batch_size=5, rows_per_shard=20)
    assert not list((tmp_path / "s").glob(".*.tmp"))
    assert build_store(tmp_path / "s", manifest, keys, compute, rows_per_shard=20)
    assert verify_store(tmp_path / "s").ok


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
def test_a_disk_that_is_really_full(tmp_path, backend):
    """On a file system of 1 MB, where one may be mounted without being root."""
    script = f"""
import sys, pathlib; sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from unittest import mock
from helpers.stores import *
import torch
from latentsmith.errors import UserError
from latentsmith.stores.verify import verify_store
known = {{"vector": (torch.randn(64, 16384), "float32")}}  # 4 MB
def go(path):
    return build_store(path, manifest_of(known, "vectors"), keys_of(64), computing(known),
                       batch_size=4, rows_per_shard=4, backend={backend!r})
small = pathlib.Path(sys.argv[1])
try:
    go(small / "s")
except UserError as error:
    assert "4.2 MB are needed" in str(error), error
else:
    raise AssertionError("room was not looked at")
with mock.patch("latentsmith.stores.build.require_free"):
    try:
        go(small / "s")
    except UserError as error:
        assert "is full" in str(error) and "run the same command" in str(error), error
    else:
        raise AssertionError("4 MB on 1 MB")
import shutil; shutil.copytree(small / "s", small.parent / "larger")
assert go(small.parent / "larger") and verify_store(small.parent / "larger").ok
print("went on")
"""
    mount = tmp_path / "small"
    mount.mkdir()
    inner = (
        f'mount -t tmpfs -o size=1m none {mount} || exit 77; exec {sys.executable} -c "$1" {mount}'
    )
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inner, "sh", script],
        capture_output=True,
        text=True,
    )
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip(f"no file system of our own: {done.stderr.strip()}")
    assert done.returncode == 0 and "went on" in done.stdout, done.stderr


def test_no_room_is_seen_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    known = table(COUNT)
    manifest, keys, _ = arguments(known)
    with pytest.raises(UserError, match=r"needed in .* for 60 rows of 0\.1 kB, but only 0\.0 MB"):
        build_store(tmp_path / "s", manifest, keys, lambda rows: 1 / 0)
    write_half(tmp_path / "t", known, monkeypatch)


def write_half(path, known, monkeypatch):
    """What is already there needs no room."""
    manifest, keys, compute = arguments(known)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9e9, 0, 9e9))
    build_store(path, manifest, keys, compute, rows_per_shard=30)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    assert build_store(path, manifest, keys, compute, rows_per_shard=30)


def test_ranks_own_every_wth_shard_and_another_number_may_go_on(tmp_path):
    known = table(COUNT)
    manifest, keys, _ = arguments(known)
    done = []

    def only(rank, world_size, shards):
        writer = ShardWriter(
            tmp_path / "s", manifest, keys, rows_per_shard=7, rank=rank, world_size=world_size
        )
        assert set(writer.owned()) == {s for s in range(9) if s % world_size == rank}
        for shard in [s for s in writer.missing() if s in shards]:
            rows = writer.positions(shard)
            writer.write(shard, {n: v[rows.start : rows.stop] for n, (v, _) in known.items()})
            done.append(shard)
        return writer

    assert not only(1, 3, {1, 4}).finish()
    assert only(0, 2, {0, 2}).missing() == [6, 8]
    assert only(1, 2, {3, 5, 7}).missing() == []
    with pytest.raises(UserError, match="2 of 9 shards are missing"):
        open_store(tmp_path / "s")
    assert only(0, 1, {6, 8}).finish()
    assert sorted(done) == list(range(9)), "each shard was written once"
    assert torch.equal(
        open_store(tmp_path / "s").gather(torch.arange(COUNT))["label"], torch.arange(COUNT)
    )


def build_on_rank(rank, world_size, folder):
    """Everything ranks do together, in one start of processes."""
    folder, known, asked = Path(folder), table(COUNT), []
    manifest, keys, compute = arguments(known, {11})

    def counted(rows):
        asked.extend(rows.tolist())
        time.sleep(0.02 * (world_size - rank))  # the first is the slowest
        return compute(rows)

    def build(name, compute=counted, keys=keys):
        return build_store(
            folder / name, manifest, keys, compute, batch_size=4, rows_per_shard=7,
            rank=rank, world_size=world_size, progress=lambda *_: None,
        )  # fmt: skip

    def failing(rows):
        if rank == 1:
            raise UserError("the encoder is ill")
        return compute(rows)

    result = {"finished": build("s"), "asked": list(asked)}
    store = open_store(folder / "s")  # no rank is too early
    result["label"] = store.gather(torch.arange(12, COUNT))["label"]
    for name, kwargs in {"ill": {"compute": failing}, "s": {"keys": keys[::-1]}}.items():
        try:
            build(name, **kwargs)
        except UserError as error:
            result[name] = str(error)
    asked.clear()
    result["again"] = build("ill"), list(asked)
    return result


def test_two_processes_write_one_store(tmp_path):
    results = run_ranks(build_on_rank, 2, str(tmp_path))
    assert sorted(results[0]["asked"] + results[1]["asked"]) == list(range(COUNT))
    again = results[0]["again"][1] + results[1]["again"][1]
    assert set(range(7, 14)) <= set(again) and len(again) == len(
        set(again)
    )  # what the ill one took
    for found in results:
        assert found["finished"] and found["again"][0]
        assert found["label"].tolist() == list(range(12, COUNT))
        assert "process 1: the encoder is ill" in found["ill"]
        assert "holds another store: keys" in found["s"]
    assert verify_store(tmp_path / "s").ok and verify_store(tmp_path / "ill").ok
    assert dict(open_store(tmp_path / "s").unreadable) == {11: "gone"}
    assert not list(tmp_path.glob("*/failed-*")) + list(tmp_path.glob("*/*.taken"))


def test_jobs_without_a_process_group_take_over_what_others_have_not_begun(tmp_path):
    known = table(COUNT)
    manifest, keys, compute = arguments(known)
    asked: list[int] = []

    def noted(rows):
        asked.extend(rows.tolist())
        return compute(rows)

    def job(rank: int) -> bool:
        place, ranks = tmp_path / "s", {"rank": rank, "world_size": 3}
        return build_store(place, manifest, keys, noted, rows_per_shard=7, **ranks)

    ShardWriter(tmp_path / "s", manifest, keys, rows_per_shard=7)  # makes the folder
    other = Leases(tmp_path / "s", alone=False)
    assert other.take(0)  # rank 0 is busy with its first shard, rank 1 has not come up
    assert not job(2)
    assert asked[:7] == list(range(14, 21))  # its own first
    assert sorted(asked) == list(range(7, COUNT))
    other.close()  # rank 0 dies
    asked.clear()
    assert job(1) and asked == list(range(7))
    assert verify_store(tmp_path / "s").ok and not list((tmp_path / "s").glob("*.taken"))
    asked.clear()
    assert job(0) and not asked
