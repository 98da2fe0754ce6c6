"""Two processes: one embeds the corpus, both train each arm, a decoder, measure, and resume."""

from safetensors.torch import load_file

from helpers.small_textlatent import small_words
from helpers.stages import in_two_processes, undo_end
from latentsmith.cli import main


def trained(folder):
    return load_file(folder / "training/cycles/model/text_latent.safetensors")


def test_two_processes_train_measure_and_resume(tmp_path, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    settings = small_words(tmp_path)
    names = ["corpus", "base", "cycles", "autoregressive", "one_shot", "measure"]
    text = in_two_processes([f"textlatent.{n}" for n in names], settings, folder, cache)
    assert "2 × 1 × " in text, "processes × micro-batches × samples"
    first = trained(folder)
    assert main(["train", "textlatent.report", *settings, "--out", str(folder)]) == 0
    assert (folder / "report.html").is_file()

    undo_end(folder, "cycles")
    in_two_processes(["textlatent.cycles"], settings, folder, cache)
    again = trained(folder)
    for name, value in first.items():
        assert value.equal(again[name]), name
