"""Two processes: they share the caches' work, train one network, and resume."""

from safetensors.torch import load_file

from helpers.stages import in_two_processes, undo_end
from latentsmith.cli import main

SETTINGS = ["scale=smoke", "evaluate.times=[0.2]"]


def trained(folder):
    generator = folder / "training/aligned/generator"
    return load_file(generator / "backbone/trainable.safetensors") | load_file(
        generator / "alignment.safetensors"
    )


def test_two_processes_cache_train_resume_and_measure(tmp_path, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    stages = ["urepa.autoencoder", "urepa.caches", "urepa.denoiser", "urepa.aligned"]
    text = in_two_processes(stages, SETTINGS, folder, cache)
    assert "2 × 1 × 8 (processes × micro-batches × samples)" in text
    first, checkpoints = trained(folder), folder / "training/aligned/checkpoints"
    assert sorted(int(p.name) for p in checkpoints.iterdir()) == [32, 64]

    undo_end(folder, "aligned", "generator")
    stages = ["urepa.aligned", "urepa.unaligned", "urepa.measure"]
    in_two_processes(stages, SETTINGS, folder, cache)
    again = trained(folder)
    for name, value in first.items():
        assert value.equal(again[name]), name

    assert main(["train", "urepa.report", *SETTINGS, "--out", str(folder)]) == 0
    assert (folder / "report.html").is_file()
