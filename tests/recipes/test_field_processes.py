"""Two processes: they train, share the codes' cache, measure, and resume."""

from safetensors.torch import load_file

from helpers.stages import in_two_processes, undo_end
from latentsmith.cli import main

SETTINGS = ["scale=smoke", "flows.make=[values]"]


def trained(folder):
    weights = folder / "training/autoencoder/model"
    return {name: load_file(file) for file in weights.glob("*.safetensors") for name in [file.name]}


def test_two_processes_train_cache_measure_and_resume(tmp_path, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    stages = ["field.autoencoder", "field.latent", "field.values", "field.measure"]
    text = in_two_processes(stages, SETTINGS, folder, cache)
    assert "2 × 1 × " in text, "processes × micro-batches × samples"
    first = trained(folder)
    assert first and not list((cache / "stores").glob("generated-*"))
    assert main(["train", "field.report", *SETTINGS, "--out", str(folder)]) == 0
    assert (folder / "report.html").is_file()

    undo_end(folder, "autoencoder")
    in_two_processes(["field.autoencoder"], SETTINGS, folder, cache)
    again = trained(folder)
    for file, tensors in first.items():
        for name, value in tensors.items():
            assert value.equal(again[file][name]), (file, name)
