"""Two processes through torchrun: they share the caches' work, train one network, and resume."""

import os
import shutil
import subprocess
import sys

from safetensors.torch import load_file

from latentsmith.cli import main

SETTINGS = ["scale=smoke", "evaluate.times=[0.2]"]


def torchrun(folder, cache, stage):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", "-m", "latentsmith", "train", f"urepa.{stage}", *SETTINGS]
    environment = {**os.environ, "LATENTSMITH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(folder)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def trained(folder):
    generator = folder / "training/aligned/generator"
    return load_file(generator / "backbone/trainable.safetensors") | load_file(
        generator / "alignment.safetensors"
    )


def test_two_processes_cache_train_resume_and_measure(tmp_path, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    assert main(["train", "urepa.autoencoder", *SETTINGS, "--out", str(folder)]) == 0
    torchrun(folder, cache, "caches")
    assert main(["train", "urepa.denoiser", *SETTINGS, "--out", str(folder)]) == 0
    text = torchrun(folder, cache, "aligned")
    assert "2 × 1 × 8 (processes × micro-batches × samples)" in text
    first, checkpoints = trained(folder), folder / "training/aligned/checkpoints"
    assert sorted(int(p.name) for p in checkpoints.iterdir()) == [32, 64]

    shutil.rmtree(checkpoints / sorted(p.name for p in checkpoints.iterdir())[-1])
    shutil.rmtree(folder / "training/aligned/generator")
    (folder / "stages/aligned.json").unlink()
    torchrun(folder, cache, "aligned")
    again = trained(folder)
    for name, value in first.items():
        assert value.equal(again[name]), name

    assert main(["train", "urepa.unaligned", *SETTINGS, "--out", str(folder)]) == 0
    torchrun(folder, cache, "measure")
    assert main(["train", "urepa.report", *SETTINGS, "--out", str(folder)]) == 0
    assert (folder / "report.html").is_file()
