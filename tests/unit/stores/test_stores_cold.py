"""Reads that bypass the mapping: the same bytes, few and parallel reads, found out by looking."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from helpers.reading import make_store
from latentsmith.errors import UserError
from latentsmith.stores import cold, gather, joined
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.cold import RowFiles
from latentsmith.stores.joined import LOOK_EVERY, StoreReader

VALUES = {
    "mean": torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0)),
    "half": torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).half(),
    "brain": torch.randn(40, 6, generator=torch.Generator().manual_seed(2)).bfloat16(),
    "label": torch.arange(40) << 33,
}
ROWS = torch.tensor([39, 0, 1, 2, 7, 6, 8, 8, 13, 14, 20, 19])


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", VALUES)


@pytest.fixture
def files(store):
    files = RowFiles(store.extents, store.layout.rows_per_shard)
    yield files
    files.close()


def read(files: RowFiles, name: str, rows: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(rows), *VALUES[name].shape[1:], dtype=VALUES[name].dtype)
    files.copy(name, rows, out)
    return out


@pytest.mark.parametrize("name", list(VALUES))
def test_rows_are_those_that_were_written(files, name):
    assert torch.equal(read(files, name, ROWS), VALUES[name][ROWS])
    assert read(files, name, ROWS[:0]).shape[0] == 0


def test_rows_side_by_side_are_one_read_of_bounded_size(files, monkeypatch):
    calls, preadv = [], os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, b, at, *f: calls.append(len(b)) or preadv(fd, b, at)
    )
    read(files, "mean", ROWS)  # shards of 7: 0-1-2, 6 | 7-8, 8, 13 | 14, 19-20 | 39
    assert sorted(calls) == [1, 1, 1, 1, 1, 2, 2, 3]
    calls.clear()
    monkeypatch.setattr(cold, "RUN_BYTES", 2 * 60)
    assert torch.equal(read(files, "mean", torch.arange(7)), VALUES["mean"][:7])
    assert sorted(calls) == [1, 2, 2, 2]
    calls.clear()
    monkeypatch.setattr(cold, "RUN_BYTES", 1 << 20)
    monkeypatch.setattr(cold, "MOST_VECTORS", 3)
    read(files, "mean", torch.arange(7))
    assert sorted(calls) == [1, 3, 3]


def test_reads_that_give_less_than_was_asked_for_go_on(files, monkeypatch):
    preadv = os.preadv

    def stingy(fd, buffers, at):
        first = buffers[0][: max(1, len(buffers[0]) // 3)]
        return preadv(fd, [first], at)

    monkeypatch.setattr(os, "preadv", stingy)
    assert torch.equal(read(files, "mean", ROWS), VALUES["mean"][ROWS])


def test_a_read_may_end_between_and_within_rows(monkeypatch, tmp_path):
    source = bytes(range(100))
    (tmp_path / "f").write_bytes(source)
    monkeypatch.setattr(
        os, "preadv", lambda fd, b, at: _fill(b, source[at : at + 13])
    )  # 13 bytes of rows of 5
    buffers = list(torch.zeros(7, 5, dtype=torch.uint8).numpy())
    cold._read_all(0, buffers, 10, tmp_path / "f")
    assert b"".join(b.tobytes() for b in buffers) == source[10:45]


def _fill(buffers, data):
    done = 0
    for buffer in buffers:
        part = data[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
    return done


def test_a_file_that_was_cut_off_is_named(store, files):
    shard = store.path / "shard-00005.safetensors"
    store.close()
    read(files, "mean", torch.tensor([39]))
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(UserError, match=r"shard-00005.*cut off"):
        for name in VALUES:
            read(files, name, torch.arange(35, 40))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_files_stay_open_and_none_after_closing(store, monkeypatch):
    monkeypatch.setattr(cold, "MOST_FILES", 2)
    before = open_files()
    files = RowFiles(store.extents, store.layout.rows_per_shard, queue=3)
    for _ in range(3):
        assert torch.equal(read(files, "half", torch.arange(40)), VALUES["half"])
        assert files.cached("half", torch.arange(40))
        assert open_files() == before + 2
    files.close()
    assert open_files() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("latentsmith-read")]


def test_reads_run_at_once(store, monkeypatch):
    """As many as the queue is deep: each waits for the others."""
    preadv, meet = os.preadv, threading.Barrier(5)
    monkeypatch.setattr(os, "preadv", lambda *a: (meet.wait(10) and 0) or preadv(*a))
    files = RowFiles(store.extents, store.layout.rows_per_shard, queue=5)
    rows = torch.arange(0, 20, 2)
    assert torch.equal(read(files, "half", rows), VALUES["half"][rows])
    files.close()


def cached_says(monkeypatch, answer):
    """What the system answers to reads that may not wait; other reads go through."""
    preadv, asked = os.preadv, []

    def fake(fd, buffers, at, flags=0):
        if not flags:
            return preadv(fd, buffers, at)
        asked.append(at)
        if isinstance(answer[0], OSError):
            raise answer[0]
        return 1

    monkeypatch.setattr(os, "preadv", fake)
    return asked


def test_what_is_in_memory_is_asked_of_the_system(files, monkeypatch):
    answer = [None]
    asked = cached_says(monkeypatch, answer)
    assert files.cached("mean", torch.arange(40)) and 16 <= len(asked) <= 32
    answer[0] = BlockingIOError(errno.EAGAIN, "")
    assert not files.cached("mean", torch.arange(40))
    assert files.cached("mean", torch.arange(0))
    answer[0] = OSError(errno.EOPNOTSUPP, "")
    assert files.cached("mean", torch.arange(40)), "a system that cannot tell"
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert files.cached("mean", torch.arange(40))


def test_a_dropped_file_is_found_out(tmp_path):
    """With the real page cache, where the file system lets go of its pages."""
    big = make_store(tmp_path / "big", {"mean": torch.zeros(64, 1 << 12)}, rows_per_shard=64)
    files = RowFiles(big.extents, 64)
    assert files.cached("mean", torch.arange(64))
    with (big.path / "shard-00000.safetensors").open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = files.cached("mean", torch.arange(64))
    files.close()
    if found:
        pytest.skip("this file system keeps its pages (tmpfs, overlay)")


def buffers(store) -> dict[str, torch.Tensor]:
    fields = store.manifest.fields
    return {n: torch.empty(len(ROWS), *s.shape, dtype=s.dtype) for n, s in fields.items()}


@pytest.mark.parametrize(("read", "way"), [("mmap", "mmap"), ("pread", "pread")])
def test_the_way_can_be_chosen(store, read, way):
    reader, out = StoreReader(store, list(VALUES), read), buffers(store)
    reader.fill(ROWS, out)
    reader.close()
    assert reader.counts == {"mmap": 0, "pread": 0} | {way: 1}
    assert all(torch.equal(out[n], VALUES[n][ROWS]) for n in VALUES)


def test_auto_goes_by_what_is_in_memory_and_looks_again(store, monkeypatch):
    monkeypatch.setattr(joined, "IN_MEMORY", 0)
    answer = [BlockingIOError(errno.EAGAIN, "")]
    asked = cached_says(monkeypatch, answer)
    reader, out = StoreReader(store, list(VALUES), "auto"), buffers(store)

    def fill(times):
        for _ in range(times):
            for value in out.values():
                value.zero_()
            reader.fill(ROWS, out)
            assert all(torch.equal(out[n], VALUES[n][ROWS]) for n in VALUES)
        return reader.counts["mmap"], reader.counts["pread"]

    assert fill(3) == (0, 3), "not in memory: asked before each batch"
    answer[0] = None
    assert fill(1) == (1, 3)
    before = len(asked)
    fill(LOOK_EVERY // 2)
    assert len(asked) == before, "in memory: asked now and then"
    answer[0] = BlockingIOError(errno.EAGAIN, "")
    mapped, preads = fill(2 * LOOK_EVERY)
    assert len(asked) > before and preads > LOOK_EVERY and mapped < 2 * LOOK_EVERY
    reader.close()


def test_small_stores_and_lmdb_are_never_asked_about(tmp_path, store, monkeypatch):
    asked = cached_says(monkeypatch, [None])
    lmdb = make_store(tmp_path / "lmdb", VALUES, backend="lmdb")
    for one, read in [(store, "auto"), (lmdb, "auto"), (lmdb, "pread")]:
        reader, out = StoreReader(one, list(VALUES), read), buffers(one)
        reader.fill(ROWS, out)
        reader.close()
        assert reader.counts == {"mmap": 1, "pread": 0} and not asked
        assert all(torch.equal(out[n], VALUES[n][ROWS]) for n in VALUES)
    lmdb.close()


@pytest.mark.parametrize("chunk", [1, 5 * 4 * 15, 1 << 20])
@pytest.mark.parametrize("read", ["mmap", "pread"])
def test_int8_fields_are_those_of_gather(tmp_path, monkeypatch, read, chunk):
    """Decoded row by row, by fives (of 12), and at once."""
    tokens = {"tokens": VALUES["mean"], "vector": VALUES["half"]}
    store = make_store(tmp_path / "int8", tokens, int8=("tokens", "vector"))
    assert store.manifest.fields["tokens"] == FieldSpec((3, 5), "int8")
    wanted = store.gather(ROWS)
    monkeypatch.setattr(gather, "CHUNK", chunk)
    reader, out = StoreReader(store, list(tokens), read), buffers(store)
    reader.fill(ROWS, out)
    reader.close()
    assert all(torch.equal(out[n], wanted[n]) for n in tokens)
    assert (out["tokens"] - VALUES["mean"][ROWS]).abs().max() < 0.02
