"""Several processes open one dataset: the first fetches it, the others find it."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist

from helpers.ranks import run_ranks
from latentsmith.config.schema import schema
from latentsmith.data.base import DatasetConfig
from latentsmith.data.memory import can_gather
from latentsmith.data.splits import Splits
from latentsmith.data.subset import subset
from latentsmith.errors import UserError
from latentsmith.training.team import Team
from latentsmith.utils.lock import first_alone

SLOW = 0.4
"""Seconds a fetch takes: long enough for the others to come and look."""


class Fetched:
    """Four samples whose digest, too, is dear the first time."""

    classes, origin = None, "the test"

    def __init__(self, name, kept):
        self.name, self.kept = name, kept

    def __len__(self):
        return 4

    @property
    def digest(self) -> str:
        once(self.kept / f"digest-{self.name}")
        return "abc"


@schema
class FetchedConfig(DatasetConfig):
    """A dataset that is fetched into the cache and notes who found it cold, and who did not."""

    kind: Literal["fetched"] = "fetched"
    fails: bool = False

    def build(self, split, cache):
        once(cache / split)
        if self.fails:
            (cache / split).unlink()
            raise UserError("nothing to be had")
        return Fetched(split, cache)


def once(place: Path) -> None:
    """Note who comes to ``place`` and whether anybody was through before; take a while if not."""
    cold = not place.is_file()
    with place.with_suffix(".log").open("a") as log:
        log.write(f"{'cold' if cold else 'warm'} {os.environ.get('RANK')}\n")
    if cold:
        time.sleep(SLOW)
        place.touch()


def noted(cache: Path, name: str) -> list[str]:
    """How often it was found cold or warm."""
    return sorted(line.split()[0] for line in (cache / "data" / f"{name}.log").open())


def images(**settings) -> Splits:
    return Splits(FetchedConfig(**settings), count=2, probe_count=2)


def opened(rank: int, world_size: int, cache: str) -> dict[str, object]:
    os.environ["LATENTSMITH_CACHE"] = f"{cache}/shared"
    Path(cache, "shared/data").mkdir(parents=True, exist_ok=True)
    dist.barrier()
    found, seen = images(), dict[str, object]()
    seen["counts"] = len(found.train), len(found.val), len(found.probe)

    # by the main process alone, before all
    os.environ["LATENTSMITH_CACHE"] = f"{cache}/main"
    Path(cache, "main/data").mkdir(parents=True, exist_ok=True)
    team, later = Team(None, torch.device("cpu"), rank, world_size), images()
    seen["digest"] = team.on_main(lambda: later.train.digest)
    assert later.train.digest == seen["digest"]

    # it cannot be had: everybody hears of it, nobody waits
    os.environ["LATENTSMITH_CACHE"] = f"{cache}/fails"
    Path(cache, "fails/data").mkdir(parents=True, exist_ok=True)
    dist.barrier()
    with pytest.raises(UserError, match="nothing to be had"):
        _ = images(fails=True).train
    return seen


def test_one_process_fetches_and_reads_and_the_others_find(tmp_path):
    results = run_ranks(opened, 2, str(tmp_path))
    assert [r["counts"] for r in results] == [(4, 2, 2)] * 2
    assert results[0]["digest"] == results[1]["digest"]
    for name in ("train", "val", "digest-train", "digest-val"):
        assert noted(tmp_path / "shared", name) == ["cold", "warm"], name
    assert (tmp_path / "main/data/train.log").read_text() == "cold 0\nwarm 1\n"
    assert "warm" not in noted(tmp_path / "fails", "train")


def test_one_process_reads_the_digest_only_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path))
    (tmp_path / "data").mkdir()
    found = images()
    assert len(found.train) == 4 and not (tmp_path / "data/digest-train.log").exists()


def test_asking_whether_a_dataset_gathers_takes_no_digest():
    class Dear:
        name = origin = "dear"
        classes: list[str] | None = None

        @property
        def digest(self) -> str:
            raise AssertionError("all files would be read now")

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {}

        def gather(self, indices):
            return {"index": indices}

    some = subset(Dear(), torch.tensor([3, 1]))
    assert can_gather(some)
    assert some.gather(torch.tensor([0, 1]))["index"].tolist() == [3, 1]


def test_those_who_waited_go_together(tmp_path):
    first, together = threading.Event(), threading.Barrier(3)

    def wait() -> None:
        first.wait()
        with first_alone(tmp_path / "x"):
            together.wait(timeout=20)  # broken unless all three are inside at once

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    with first_alone(tmp_path / "x"):  # not to come again: a newcomer may be before who is woken
        first.set()
        time.sleep(0.2)
        assert together.n_waiting == 0
    for thread in threads:
        thread.join()
    assert not together.broken


def test_a_child_that_was_forked_inside_holds_up_nobody(tmp_path):
    with first_alone(tmp_path / "x"):
        held = str(tmp_path / ".x.lock")
        (fd,) = [
            int(f.name) for f in Path("/proc/self/fd").iterdir() if os.path.realpath(f) == held
        ]
        childs = os.dup(fd)  # as a fork would: the same open file
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(enter, tmp_path / "x").result(timeout=20)
    finally:
        os.close(childs)


def enter(path: Path) -> None:
    with first_alone(path):
        pass
