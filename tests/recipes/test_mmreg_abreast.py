"""Both arms side by side: the same models, and nothing lost or left behind however it ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.fresh import python
from helpers.small_mmreg import ARGS
from latentsmith.cli import main
from latentsmith.cli._abreast import BESIDE, grouped, share
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.recipes.mmreg import stages
from latentsmith.utils.lock import is_held, is_running

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or not Path("/proc/self/stat").exists(),
    reason="arms go side by side on CPUs; their processes are looked up in /proc",
)

PARENT = """
import sys, torch
from latentsmith.cli import main
from latentsmith.recipes.mmreg import stages
stages.WORTH_A_PROCESS = 0
torch.set_num_threads(2)
sys.exit(main(sys.argv[1:]))
"""
TO_THE_ARMS = [*ARGS, "--until", "regularized"]
LONG = ["finetune.samples=64_000", "finetune.save_every=64_000"]


@pytest.fixture
def two_threads(monkeypatch, mmreg_cache):
    """The commands of this process have two threads to share out, and find it worth it."""
    monkeypatch.setenv("LATENTSMITH_CACHE", str(mmreg_cache))
    monkeypatch.setattr(stages, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.fixture
def started(mmreg_early, tmp_path):
    """A run that both arms are missing from."""
    folder = tmp_path / "run"
    shutil.copytree(mmreg_early, folder)
    for arm in ("baseline", "regularized"):
        shutil.rmtree(folder / "training" / arm)
    for file in (folder / "stages").iterdir():
        if file.stem not in ("references", "pretrain"):
            file.unlink()
    return folder


def check_same(folder, whole):
    for arm in ("baseline", "regularized"):
        name = f"training/{arm}/model/diffusion_pytorch_model.safetensors"
        one, other = load_file(folder / name), load_file(whole / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), arm


def test_side_by_side_trains_the_same(two_threads, started, mmreg_early, capfd):
    assert main([*TO_THE_ARMS, "--out", str(started)]) == 0
    told = capfd.readouterr().err
    assert "baseline and regularized: side by side, each with threads: 1" in told
    for arm in ("baseline", "regularized"):
        assert f"\n{arm}: 64/64 samples" in told
        assert f"] {arm}: finetune with" in told
    check_same(started, mmreg_early)
    assert main([*TO_THE_ARMS, "--out", str(started)]) == 0
    again = capfd.readouterr().err
    assert "side by side" not in again
    assert "] regularized: finetune with the pairwise loss (done before)" in again


def test_what_one_arm_has_to_say_ends_both(two_threads, started, mmreg_early, capfd):
    (started / "training" / "regularized").write_text("in the way")
    assert main([*TO_THE_ARMS, "--out", str(started)]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("latentsmith: ")
    assert "training/regularized" in last
    assert not is_held(started / "run.lock")
    (started / "training" / "regularized").unlink()
    assert main([*TO_THE_ARMS, "--out", str(started)]) == 0
    check_same(started, mmreg_early)


@pytest.mark.parametrize(
    ("victim", "signum", "code"),
    [
        ("parent", signal.SIGTERM, 128 + signal.SIGTERM),
        ("parent", signal.SIGKILL, -signal.SIGKILL),
        ("arm", signal.SIGKILL, 2),
    ],
)
def test_none_is_left_behind(mmreg_cache, tmp_path, victim, signum, code):
    env = os.environ | {"LATENTSMITH_CACHE": str(mmreg_cache)}
    out, log = tmp_path / "run", tmp_path / "log"
    with log.open("w") as file:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, *TO_THE_ARMS, *LONG, "--out", str(out)],
            stderr=file,
            stdout=file,
            env=env,
        )
    until(lambda: all(f"{arm}: 16/64,000" in log.read_text() for arm in stages.ARMS), log)
    arms = children(parent.pid)
    assert len(arms) == 2
    os.kill(parent.pid if victim == "parent" else arms[-1], signum)
    assert parent.wait(60) == code, log.read_text()
    until(lambda: not is_held(out / "run.lock"), log)
    until(lambda: not any(map(is_running, arms)), log)
    saved = {arm: any((out / "training" / arm / "checkpoints").glob("0*")) for arm in stages.ARMS}
    if signum == signal.SIGTERM:
        assert saved == {"baseline": True, "regularized": True}
        assert "The same command goes on where this stopped" in log.read_text()
    if victim == "arm":
        assert saved == {"baseline": True, "regularized": False}, "the other one saves"
        assert "stage regularized: its process ended with signal 9, as when" in log.read_text()


def test_an_arm_whose_parent_died_early_begins_nothing(mmreg_early):
    before = sorted(mmreg_early.rglob("*"))
    words = ("-m", "latentsmith", "train", "mmreg.baseline", "--out", str(mmreg_early))
    done = python(*words, env=os.environ | {BESIDE: str(os.getpid())})  # whose child it is not
    assert done.returncode == 2 and "is no more" in done.stderr
    assert sorted(mmreg_early.rglob("*")) == before


def test_one_after_the_other_where_that_is_better(monkeypatch, tmp_path, two_threads):
    config = compose("mmreg", ["scale=smoke"])
    run = Run(tmp_path, config)
    groups = [g for g in grouped(config.stages()) if len(g) > 1]
    assert [[s.name for s in g] for g in groups] == [
        ["baseline", "regularized"],
        ["generator-baseline", "generator-regularized"],
    ]
    arms = groups[0]
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert share(run, arms) == 1
    assert share(run, arms[:1]) == 0, "alone"
    assert share(replace(run, shared=tmp_path), arms) == 0, "in a sweep"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    assert share(run, arms) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert share(run, arms) == 0, "one thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "1")
        assert share(run, arms) == 0, "from a launcher"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert share(run, arms) == 0, "a GPU"


def test_a_short_training_is_worth_no_process():
    for scale, count in (("smoke", 1), ("laptop", 2)):
        groups = grouped(compose("mmreg", [f"scale={scale}"]).stages())
        assert max(map(len, groups)) == count


def until(there, log):
    end = time.monotonic() + 120
    while not there():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """In the order they were started."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(file.parent.name))
    return sorted(found)
