"""Two processes: they share the caches' work, train one network, and resume."""

import shutil

from safetensors.torch import load_file

from helpers.stages import in_two_processes
from latentsmith.cli import main

SETTINGS = ["scale=smoke"]


def trained(folder):
    file = "training/dit/generator/backbone/diffusion_pytorch_model.safetensors"
    return load_file(folder / file)


def test_two_processes_train_cache_resume_and_measure(tmp_path, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    stages = ["psvae.svae", "psvae.pixel", "psvae.caches", "psvae.dit"]
    text = in_two_processes(stages, SETTINGS, folder, cache)
    assert "2 × 1 × 8 (processes × micro-batches × samples)" in text
    first, checkpoints = trained(folder), folder / "training/dit/checkpoints"
    assert sorted(int(p.name) for p in checkpoints.iterdir()) == [32, 64]

    shutil.rmtree(checkpoints / sorted(p.name for p in checkpoints.iterdir())[-1])
    shutil.rmtree(folder / "training/dit/generator")
    (folder / "stages/dit.json").unlink()
    in_two_processes(["psvae.dit", "psvae.measure"], SETTINGS, folder, cache)
    again = trained(folder)
    for name, value in first.items():
        assert value.equal(again[name]), name

    assert main(["train", "psvae.report", *SETTINGS, "--out", str(folder)]) == 0
    assert (folder / "report.html").is_file()
