"""Processes that get in each other's way, or die while others count on them."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults.harm import told_file
from faults.training import Training, check_same
from faults.writing import COUNT, FEW, Store
from helpers.ports import free_port
from helpers.stores import computing, keys_of, manifest_of, table
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import TransformConfig
from latentsmith.stores.build import build_store
from latentsmith.training import checkpoint
from latentsmith.utils.files import write_json
from latentsmith.utils.lock import Lock, is_held


def wait_until(there) -> None:
    """Raises AssertionError after a minute."""
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)


def test_two_commands_on_one_run(nursery, whole, tmp_path):
    """The second is told who is at work; a killed one leaves no lock behind."""
    run = Training(nursery, "mmreg", tmp_path / "root")
    first = nursery.start("faults.training:run", "mmreg", str(run.root), None)
    wait_until(lambda: (run.root / "run" / "stages").exists())
    assert nursery.run("faults.training:run", "mmreg", str(run.root), None) == 2
    assert f"run is being written by process {first.pid} on " in nursery.said()
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert not is_held(run.root / "run" / "run.lock")
    assert run.go()
    check_same(whole("mmreg"), run)


def test_two_trainings_in_one_folder_without_the_command_line(nursery, tmp_path):
    folder = str(tmp_path / "run")
    first = nursery.start("faults.harm:fit_slowly", folder, 0.3)
    wait_until(lambda: checkpoint.listed(tmp_path / "run" / "checkpoints"))
    assert nursery.run("faults.harm:fit_slowly", folder, 0) == 2, nursery.said()
    assert f"is being written by process {first.pid}" in told_file(folder).read_text()
    first.kill()
    first.wait()
    assert nursery.run("faults.harm:fit_slowly", folder, 0) == 0, nursery.said()
    assert nursery.run("faults.harm:fit_slowly", str(tmp_path / "whole"), 0) == 0
    ends = [tmp_path / name / "checkpoints/000000000064" for name in ("run", "whole")]
    for name in ("model", "optimizer"):
        one, other = (load_file(end / f"{name}.safetensors") for end in ends)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
def test_two_processes_fill_one_store(nursery, tmp_path, backend):
    """One waits for the other, and finds the work done."""
    store = Store(nursery, tmp_path / "s", backend, COUNT)
    where = [str(store.path), str(store.log), backend, COUNT, None, 0.01]
    both = [nursery.start("faults.writing:fill", *where) for _ in range(2)]
    assert [child.wait() for child in both] == [0, 0], nursery.said()
    rows = sorted(int(row) for row in store.log.read_text().split())
    assert rows == list(range(COUNT)), "each row was computed once"
    store.check_end()


@pytest.mark.parametrize("backend", ["shards", "lmdb"])
def test_one_of_two_who_fill_a_store_is_killed(nursery, tmp_path, backend):
    store = Store(nursery, tmp_path / "s", backend, COUNT)
    where = [str(store.path), str(store.log), backend, COUNT, None, 0.02]
    first = nursery.start("faults.writing:fill", *where)
    wait_until(lambda: len(store.log.read_text().split()) > 8)
    second = nursery.start("faults.writing:fill", *where)
    first.kill()
    assert first.wait() == -signal.SIGKILL and second.wait() == 0, nursery.said()
    assert len(store.log.read_text().split()) < 2 * COUNT, "what was safe was left alone"
    store.check_end()


@pytest.mark.parametrize("dying", [{0}, {1}, {0, 1}])
def test_ranks_that_die_while_they_fill_a_store(nursery, tmp_path, dying):
    """Who is left makes what the dead one had begun, and says that it is gone; leases of the dead
    hold nobody up, so that the next start is not to wait for them."""
    store = Store(nursery, tmp_path / "s", "shards", COUNT)

    def fill(kill):
        meeting = str(tmp_path / f"meeting-{len(kill)}")
        both = [
            nursery.start("faults.harm:fill_as", r, meeting, str(store.path), str(store.log), 0.03)
            for r in range(2)
        ]
        if kill:
            wait_until(lambda: len(store.log.read_text().split()) > 4)
            for rank in kill:
                both[rank].kill()
        return [child.wait() for child in both]

    codes = fill(dying)
    for rank in {0, 1} - dying:
        assert codes[rank] == 2, nursery.said()
        told = told_file(f"{store.path}-{rank}").read_text()
        assert told.startswith("PeerLost: another of the 2 processes at work has ended"), told
    safe = store.safe()
    assert len(dying) == 2 or len(safe) == COUNT
    before = len(store.log.read_text().splitlines())
    assert fill(()) == [0, 0], nursery.said()
    again = store.log.read_text().splitlines()[before:]
    assert not safe & {int(row) for line in again for row in line.split()}
    store.check_end()


@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_dies_is_told_by_the_other(nursery, tmp_path, dying):
    """Of two processes over gloo, not started by torchrun, which would stop the other."""
    folder = str(tmp_path / "run")

    def train(death):
        port = free_port()
        deaths = [death if rank == dying else None for rank in range(2)]
        both = [
            nursery.start("faults.harm:fit_as", rank, port, folder, deaths[rank])
            for rank in range(2)
        ]
        return [child.wait() for child in both]  # within the nursery's patience

    codes = train(40)
    assert codes[dying] == -signal.SIGKILL and codes[1 - dying] == 2, nursery.said()
    told = told_file(f"{folder}-{1 - dying}").read_text()
    assert told.startswith("PeerLost: another of the 2 processes at work has ended")
    assert told.endswith("checkpoints/000000000032")
    assert train(None) == [0, 0], nursery.said()


def test_a_reading_thread_that_fails_ends_the_training_where_its_batch_would_have_come(tmp_path):
    """The loader has threads, which nobody can kill; but one may run out of memory, or be asked to
    exit by a library."""

    class Data:
        name, classes, origin, digest = "data", None, "here", "0"

        def __init__(self, ill=None):
            self.ill = ill

        def __len__(self):
            return 32

        def __getitem__(self, index):
            if index == self.ill:
                raise SystemExit("a codec gave up")
            return {"image": torch.full((3, 8, 8), index, dtype=torch.uint8)}

    def batches(data):
        transform = TransformConfig(resolution=8).build()
        return Loader(data, transform, batch_size=4, seed=0, shuffle=False, threads=2).iterate(0)

    ill = batches(Data(ill=9))
    seen = [next(ill)["index"].tolist() for _ in range(2)]
    with pytest.raises(SystemExit, match="a codec gave up"):
        next(ill)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]
    well = batches(Data())
    assert [next(well)["index"].tolist() for _ in range(3)][-1] == [8, 9, 10, 11]


def test_a_worker_process_that_is_killed(nursery, tmp_path):
    """Of a DataLoader over a store, for those who bring their own: an error, and nobody hangs."""
    store = Store(nursery, tmp_path / "s", "shards", FEW)
    assert store.go()
    assert nursery.run("faults.harm:lose_a_worker", str(store.path)) == 2, nursery.said()


# ---- clocks -------------------------------------------------------------------------------------


def test_locks_know_no_time(tmp_path):
    """A lock file from the future, or of a process that is no more, holds nobody up."""
    file = tmp_path / "run.lock"
    write_json(file, {"pid": 2**22 + 7, "host": "elsewhere"})
    os.utime(file, (2**33, 2**33))
    Lock.take(file).release()


def test_a_store_goes_on_whatever_its_files_times(tmp_path):
    known, asked = table(FEW), []
    good = computing(known)

    def compute(rows):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(rows.tolist())
        return good(rows)

    def go(compute):
        return build_store(
            tmp_path / "s", manifest_of(known), keys_of(FEW), compute, batch_size=2,
            rows_per_shard=2, progress=lambda *_: None,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        go(compute)
    scramble(tmp_path / "s")
    again = []
    assert go(lambda rows: again.append(rows.tolist()) or good(rows))
    assert sorted(asked + again) == [[0, 1], [2, 3], [4, 5], [6, 7]], "nothing was made twice"


def scramble(folder: Path) -> None:
    """Times of files as after jumps of the clock: from the past and the future, in no order."""
    for n, file in enumerate(sorted(folder.rglob("*"))):
        stamp = (n * 7919) % 13 * 10**8 + 10**8 * (n % 2) * 20
        os.utime(file, (stamp, stamp))


def test_a_run_goes_on_whatever_the_clock_says(nursery, whole, tmp_path):
    """Killed near its middle; then the clock is a year back, and all files' times are nonsense."""
    run = Training(nursery, "textlatent", tmp_path / "root")
    assert not run.go(number=whole("textlatent").steps // 2)
    scramble(run.root)
    assert run.go(clock=-365 * 86400.0)
    check_same(whole("textlatent"), run)
