"""Two processes: they share the caches' work, train one network, and resume."""

from safetensors.torch import load_file

from helpers.stages import in_two_processes, undo_end
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

    undo_end(folder, "dit", "generator")
    in_two_processes(["psvae.dit", "psvae.measure"], SETTINGS, folder, cache)
    again = trained(folder)
    for name, value in first.items():
        assert value.equal(again[name]), name

    assert main(["train", "psvae.report", *SETTINGS, "--out", str(folder)]) == 0
    assert (folder / "report.html").is_file()
