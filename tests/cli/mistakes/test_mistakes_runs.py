"""Runs that were begun with something else, or are gone on with too early; several processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.mistakes import Mistake, check, everything, refused

MISTAKES = [
    Mistake(
        "going on with another seed",
        "train mmreg.pretrain scale=smoke seed=5 --out half",
        "half was started with other settings:\n  seed: 0 there, 5 now\nKeep both with --out",
    ),
    Mistake(
        "going on with several other settings",
        "run mmreg scale=smoke seed=5 loss.weight=9 --out half",
        "(?s)seed: 0 there, 5 now.*loss.weight: .* there, 9.0 now|loss.weight.*seed",
    ),
    Mistake(
        "going on at another scale",
        "run mmreg scale=laptop --out half",
        "half was started with other settings",
    ),
    Mistake(
        "the folder of another recipe's run",
        "run field scale=smoke --out half",
        "half holds a run of mmreg, not of field. Give another folder with --out",
    ),
    Mistake(
        "images into the run they come from",
        "sample by_class --out half",
        "half holds a run of mmreg, not of sample",
    ),
    Mistake(
        "a stage before the one it needs",
        "train mmreg.regularized scale=smoke loss.weight=0.5 --out early",
        "stage 'pretrain' of early is not done; run it first: "
        "latentsmith train mmreg.pretrain scale=smoke loss.weight=0.5 --out early",
    ),
    Mistake(
        "a generator that is not trained yet",
        "sample half",
        "half has no trained generator yet: the same latentsmith run, without --until",
    ),
    Mistake(
        "an export of a generator there is not yet",
        "export half --model generator-baseline --out exported",
        "half has no model of stage 'generator-baseline'",
    ),
    Mistake("a report that is not written yet", "report half", "half has no report.json: the run"),
    Mistake("a run beside nothing", "report half nowhere", "nowhere is not a folder|no report"),
    Mistake(
        "a model of a stage there is not",
        "measure half --model pretrainn",
        "half has no model of stage 'pretrainn'. (Did you mean|Known:)",
    ),
    Mistake(
        "a stage of what is no run",
        "measure empty --model pretrain",
        "--model pretrain names a stage of a run, and empty is not a run folder",
    ),
    Mistake("no data to measure on", f"measure {'half/training/start/model'}", "data: choose one"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_runs(mistake, place, capsys):
    check(mistake, capsys)


@pytest.fixture
def half(place, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree("half", tmp_path / "half"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "config.yaml is not valid YAML"),
        ("a: 1\n", "holds no recipe settings"),
        ("kind: mmrg\n", "Did you mean 'mmreg'"),
        ("kind: mmreg\nspeed: 3\n", "does not fit this version"),
        ("!!python/object/apply:os.system ['touch pwned']\n", "config.yaml is not valid YAML"),
    ],
)
def test_settings_of_a_run_that_were_damaged(half, tmp_path, monkeypatch, capsys, content, says):
    (half / "config.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    before = everything()
    assert says in refused(["measure", str(half)], capsys)
    assert says in refused(["run", "mmreg", "scale=smoke", "--out", str(half)], capsys)
    assert everything() == before


def test_a_mistake_with_fresh_leaves_the_old_run_in_its_place(half, capsys):
    before = {file: file.read_bytes() for file in half.rglob("*") if file.is_file()}
    words = ["data=image_folder", "data.folder=nowhere", "--out", str(half), "--fresh"]
    refused(["run", "mmreg", "scale=smoke", *words], capsys)
    assert {file: file.read_bytes() for file in half.rglob("*") if file.is_file()} == before
    assert [folder.name for folder in half.parent.iterdir()] == ["half"]


def test_what_a_stage_has_left_stays(place, tmp_path, capsys):
    """The same command, mended, goes on from there."""
    words = ["run", "mmreg", "scale=smoke", "finetune.samples=64", "evaluate.count=1"]
    told = refused([*words, "--out", str(tmp_path / "run")], capsys)
    assert told and "Traceback" not in told
    kept = (tmp_path / "run").exists()
    assert kept == bool(list((tmp_path / "run").rglob("stages/*.json")))


def test_a_folder_that_another_process_writes(half, capsys):
    program = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f,2); f.write('{}'); "
    program += "f.flush(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(half / "run.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        told = refused(["train", "mmreg.pretrain", "scale=smoke", "--out", str(half)], capsys)
        other.communicate()
    assert "is being written by another process. Wait for it, stop it, or use another" in told


# Several processes -------------------------------------------------------------------------------


def test_a_batch_the_processes_cannot_share(place, tmp_path):
    """Each ends with code 2, one tells why; the traceback is torchrun's own, of no line of ours."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "latentsmith", "train", "mmreg.pretrain", "scale=smoke", "--out", str(out)]
    environment = {**os.environ, "LATENTSMITH_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "pretrain.batch_size=15"],
        env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "batch_size=15 cannot be shared by 2 processes: give a positive multiple of 2" in (
        done.stderr
    )
    assert done.stderr.count("cannot be shared by 2 processes") == 1, "both have met with it"
    assert "exitcode  : 2" in done.stderr and "latentsmith/cli" not in done.stderr
    assert not out.exists()
