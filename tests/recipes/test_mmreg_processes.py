"""A real two-process run through torchrun: trains, is interrupted, resumes, leaves one run."""

import os
import subprocess
import sys

from safetensors.torch import load_file

from helpers.stages import in_two_processes, undo_end
from latentsmith.cli import main


def torchrun(folder, cache, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", "-m", "latentsmith", "train", *words, "--out", str(folder)]
    environment = {**os.environ, "LATENTSMITH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_train_and_resume(tmp_path, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    settings = ["scale=smoke", "loss.weight=0.1"]
    for stage in ("references", "pretrain"):  # starting processes is slow: one will do here
        assert main(["train", f"mmreg.{stage}", *settings, "--out", str(folder)]) == 0
    done = torchrun(folder, cache, "mmreg.regularized", *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    training = folder / "training" / "regularized"
    names = sorted(p.name for p in (training / "checkpoints").iterdir())
    assert [int(name) for name in names] == [32, 64]  # one set, whatever the number of processes
    weights = load_file(training / "model" / "diffusion_pytorch_model.safetensors")

    undo_end(folder, "regularized")
    in_two_processes(["mmreg.regularized"], settings, folder, cache)  # with no launcher's seconds
    again = load_file(training / "model" / "diffusion_pytorch_model.safetensors")
    for name, value in weights.items():
        assert value.equal(again[name]), name
