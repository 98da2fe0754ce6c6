"""Disks that are full, small, or read-only: said in a sentence, and gone on from."""

import errno
import os
from pathlib import Path

import pytest

from faults.harm import told_file
from faults.training import Training, check_same
from faults.writing import FEW, Store
from latentsmith.cli._main import _mistake
from latentsmith.errors import UserError
from latentsmith.stores.writer import FULL_DISK
from latentsmith.training import checkpoint
from latentsmith.utils.files import atomic_folder, atomic_path, full_disk_is_told, tidy


@pytest.mark.parametrize("size", ["8k", "2900k"])
def test_a_run_on_a_disk_that_is_full(nursery, mounts, whole, tmp_path, size):
    """At its first files, and at a checkpoint near its end."""
    run = Training(nursery, "mmreg", tmp_path / "root")
    code = nursery.run("faults.harm:run_on_small_disk", "mmreg", str(run.root), size)
    said = nursery.said()[-3000:]
    assert code == 2, said
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert "full" in last or "no space left" in last or "same command again" in last, said
    assert "Traceback" not in said
    assert run.go(), "on a larger disk it goes on"
    check_same(whole("mmreg"), run)


def test_a_run_where_nothing_may_be_written(nursery, mounts, tmp_path):
    code = nursery.run("faults.harm:run_read_only", "mmreg", str(tmp_path / "root"))
    assert code == 2 and "the file system is read-only" in nursery.said()


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
def test_a_store_on_a_read_only_disk_is_read(nursery, mounts, tmp_path, backend):
    store = Store(nursery, tmp_path / "made", backend, FEW)
    assert store.go()
    place = str(tmp_path / "place")
    assert nursery.run("faults.harm:read_store_read_only", str(store.path), place) == 0, (
        nursery.said()
    )


@pytest.mark.parametrize(("backend", "most"), [("shards", 600), ("lmdb", 20_000)])
def test_a_limit_on_the_size_of_files(nursery, tmp_path, backend, most):
    store = Store(nursery, tmp_path / "s", backend, FEW)
    where = [str(store.path), str(store.log), backend]
    assert nursery.run("faults.harm:fill_with_small_files", *where, most) == 2, nursery.said()
    told = told_file(store.path).read_text()
    assert "ulimit -f" in told and "run the same command again" in told
    assert store.go()
    store.check_end()


def test_a_checkpoint_beyond_the_limit(nursery, tmp_path):
    """1,200 bytes: what is logged fits, the optimizer does not."""
    folder = tmp_path / "run"
    assert nursery.run("faults.harm:fit_with_small_files", str(folder), 1200) == 2, nursery.said()
    told = told_file(folder).read_text()
    assert "ulimit -f" in told and "there is none yet" in told
    assert not list(folder.rglob(".*.tmp")) and not checkpoint.listed(folder / "checkpoints")


def test_a_full_disk_without_a_path_is_a_sentence_too():
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_text("a record of metrics.jsonl")
    told = _mistake(caught.value)
    assert told and told.startswith("the disk is full; free some")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_whoever_finds_the_disk_full_it_has_an_errno_and_a_path(tmp_path, number):
    class Foreign(Exception):
        """As safetensors and LMDB raise."""

    for text in (f"I/O error: … (os error {number})", f"mdb_put: {os.strerror(number)}"):
        for write in (atomic_path, atomic_folder):
            with pytest.raises(OSError) as caught, write(tmp_path / "there"):
                raise Foreign(text)
            assert caught.value.errno == number
            assert caught.value.filename == str(tmp_path / "there")
            assert not list(tmp_path.iterdir())
        told = full_disk_is_told(tmp_path, FULL_DISK)
        with pytest.raises(UserError, match="run the same command"), told:
            raise Foreign(text)


@pytest.mark.parametrize("call", [1, 2])
def test_a_folder_whose_replacement_fails_stays(tmp_path, monkeypatch, call):
    """Moving the old one aside fails, or moving the new one there."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    replace, calls = Path.replace, []

    def failing(self, target):
        calls.append(target)
        if len(calls) == call:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(tmp_path / "model") as tmp:
        (tmp / "weights").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_all_of_a_folder_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, fsync, replace = [], os.fsync, Path.replace

    def noted(fd):
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", lambda a, b: synced.append(str(b)) or replace(a, b))
    with atomic_folder(tmp_path / "model") as tmp:
        (tmp / "inner").mkdir()
        (tmp / "inner" / "weights").write_text("new")
    named = synced.index(str(tmp_path / "model"))
    before = {os.path.relpath(p, tmp) for p in synced[:named]}
    assert before == {".", "inner", "inner/weights"} and synced[named + 1 :] == [str(tmp_path)]


def test_what_killed_processes_left_is_undone(tmp_path):
    """Half-written things go, what was moved aside comes back, others' and the living's stay."""
    gone, here = 2**22 + 7, os.getppid()  # no pid is that large
    for name in (
        ".tmpBlfEF1",
        f".a.json.{gone}.0f.tmp",
        f".b.{here}.0f.tmp",
        ".hidden",
        f"c.{gone}.0f.tmp",
    ):
        (tmp_path / name).write_text("x")
    for name in (f".model.{gone}.0f.old", f".other.{gone}.0f.old", "other"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        (tmp_path / "deep" / name / "weights").write_text(name)
    (tmp_path / "deep" / f".fresh.{gone}.0f.tmp" / "sub").mkdir(parents=True)
    tidy(tmp_path)
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    files = {"deep/model/weights", "deep/other/weights"}
    kept = {f".b.{here}.0f.tmp", ".hidden", f"c.{gone}.0f.tmp"}
    assert names == {"deep", "deep/model", "deep/other"} | files | kept
    assert (tmp_path / "deep/other/weights").read_text() == "other"
