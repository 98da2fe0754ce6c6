"""``latentsmith launch``: files that bash accepts and that start the command as it was given."""

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from latentsmith.cli import main
from latentsmith.errors import UserError
from latentsmith.utils.launch import ENGINES, Launch, launch_file

TRICKY = ["run", "toy", "label=it's 5 $HOME", "data.path=a b"]


def printed(capsys, *words: str) -> str:
    assert main(["launch", "toy", "scale=smoke", *words]) == 0
    return capsys.readouterr().out


def accepted(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.fixture
def bin_folder(tmp_path, monkeypatch) -> Path:
    """A folder that commands are looked for in first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def stand_in(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IEXEC)


SAY = 'printf "%s\\n" "$@"'


@pytest.mark.usefixtures("toy")
def test_one_machine(capsys):
    single, several = printed(capsys), printed(capsys, "--gpus-per-node", "8")
    assert single.splitlines()[-1] == "exec latentsmith run toy scale=smoke"
    assert "torchrun --standalone --nproc-per-node 8 \\\n    -m latentsmith run toy" in several
    accepted(single)
    accepted(several)


@pytest.mark.usefixtures("toy")
def test_several_machines_meet_at_the_first(capsys):
    text = printed(capsys, "--nodes", "3", "--gpus-per-node", "4", "--out", "there")
    accepted(text)
    assert "--nnodes 3 --nproc-per-node 4" in text and '--rdzv-endpoint "$HEAD:29500"' in text
    assert text.endswith("-m latentsmith run toy scale=smoke --out there\n")
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True)
    assert done.returncode != 0 and "set HEAD to the name or address" in done.stderr


@pytest.mark.parametrize("engine", ["local", "torchrun"])
def test_words_arrive_as_they_were_typed(engine, bin_folder, monkeypatch):
    stand_in(bin_folder, "torchrun", SAY)
    monkeypatch.setenv("HEAD", "node1")
    text = launch_file(Launch(TRICKY, "job", gpus=2), engine)
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-len(TRICKY) :] == TRICKY


SRUN = """[ "$1" = --kill-on-bad-exit=1 ] && shift
for SLURM_PROCID in 0 1; do
    SLURM_PROCID=$SLURM_PROCID SLURM_LOCALID=$SLURM_PROCID SLURM_NTASKS=2 "$@" || code=$?
done
exit ${code:-0}"""


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (143, True), (2, False)])
def test_slurm_starts_every_task_and_requeues_what_was_stopped(
    code, requeued, bin_folder, monkeypatch, tmp_path
):
    stand_in(bin_folder, "srun", SRUN)
    stand_in(
        bin_folder, "scontrol",
        f'if [ "$1" = show ]; then printf "n7\\nn8\\n"; else echo "$@" > {tmp_path}/asked; fi',
    )  # fmt: skip
    show = 'echo "$RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $MASTER_PORT"'
    stand_in(bin_folder, "latentsmith", f"{show}\n{SAY}\nexit {code}")
    for name, value in {"SLURM_JOB_ID": "31", "SLURM_JOB_NODELIST": "n[7-8]"}.items():
        monkeypatch.setenv(name, value)
    text = launch_file(Launch(TRICKY, "job", 2, 1, notice=90, time="2:00:00"), "slurm")
    accepted(text)
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True)
    assert done.stdout.splitlines() == [
        "0/2 0 n7 20031", *TRICKY, "1/2 1 n7 20031", *TRICKY,
    ]  # fmt: skip
    assert done.returncode == (0 if requeued else code)
    asked = tmp_path / "asked"
    assert asked.is_file() == requeued
    assert not requeued or asked.read_text() == "requeue 31\n"


def test_what_slurm_is_asked_for():
    job = Launch(TRICKY, "job", 2, 4, cpus=6, time="2:00:00", partition="long", notice=90)
    text = launch_file(job, "slurm")
    options = re.findall(r"^#SBATCH --(\S+)$", text, re.MULTILINE)
    assert options == [
        "job-name=job", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=6",
        "time=2:00:00", "partition=long", "signal=TERM@90", "requeue", "open-mode=append",
        "output=%x-%j.log",
    ]  # fmt: skip


@pytest.mark.usefixtures("toy")
def test_a_file_is_written_once(capsys, tmp_path):
    file = tmp_path / "job.sh"
    assert "sbatch" in printed(capsys, "--engine", "slurm", "--file", str(file))
    assert os.access(file, os.X_OK)
    assert "sbatch" in printed(capsys, "--engine", "slurm", "--file", str(file))
    words = ["launch", "toy", "scale=smoke", "seed=1", "--engine", "slurm", "--file", str(file)]
    assert main(words) == 2
    assert "is there and says something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("launch toyy", "toyy"),
        ("launch toy scale=smokey", "Did you mean 'smoke'"),
        ("launch toy --gpus-per-node 0", "--gpus-per-node 0: give 1 or more"),
        ("launch toy --nodes -1", "--nodes -1"),
        ("launch toy --nodes 2 --engine local", "--engine local is one machine"),
        ("launch toy --engine slurmm", "Did you mean 'slurm'"),
        ("launch mmreg scale=smoke --gpus-per-node 5", "does not divide over 5 processes"),
    ],
)
@pytest.mark.usefixtures("toy")
def test_mistakes_are_one_sentence(line, says, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_every_engine_is_known():
    for engine in ENGINES:
        accepted(launch_file(Launch(TRICKY, "job"), engine))
    with pytest.raises(UserError):
        launch_file(Launch(TRICKY, "job"), "pbs")


def test_the_command_that_sigterm_stopped_goes_on(tmp_path, monkeypatch, capsys):
    """What a launch file relies on: exit code 143 once all is saved, and the same command again."""
    from latentsmith.training.engine import Engine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    step, seen = Engine.step, []

    def interrupted(self, batch, stop):
        seen.append(self.state.samples)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, stop)

    monkeypatch.setattr(Engine, "step", interrupted)
    line = ["run", "mmreg", "scale=smoke", "--until", "pretrain"]
    assert main(line) == 143
    assert "stopped at 32 of 64 samples and saved" in capsys.readouterr().err
    assert main(line) == 0
    assert seen == [0, 16, 32, 48], "nothing is trained twice"
