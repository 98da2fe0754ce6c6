"""``latentsmith export`` of a run that makes images from texts."""

from pathlib import Path

from helpers.exporting import blocks_of
from helpers.tiny_text_generator import tiny_text_generator
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.export.pipeline import PIPELINE_PARTS
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.reports.content import Report
from latentsmith.reports.page import write_report

WORDS = [
    "scale=smoke", "evaluate.sampler.steps=6", "evaluate.sampler.shift=2",
    "evaluate.guidance.scale=2.5", "evaluate.edit_guidance.image=1.25",
]  # fmt: skip


def test_a_run_is_exported_with_its_own_sampling_and_numbers(tmp_path, monkeypatch, capsys):
    """A run with a generator put in it: none is trained here."""
    monkeypatch.chdir(tmp_path)
    made = tiny_text_generator(tmp_path).save("generator")
    config = compose("psvae", WORDS)
    with Run.open("run", config, WORDS) as run:
        for stage in [s.name for s in config.stages()]:
            done = {"generators": [{"generator": str(made)}]} if stage == "dit" else {}
            run.mark_done(stage, done)
            if stage == "dit":
                break
    psnr = Measurement("psnr", 20.25, Stamp("shapes32/val", 64, seed=3), None, True, "dB")
    write_report(Path("run"), Report("x", measurements={"PS-VAE": [psnr]}))
    assert main(["export", "run", "--out", "exported"]) == 0
    assert capsys.readouterr().out == "exported\n"
    text = Path("exported/README.md").read_text()
    assert "\n# run-dit\n" in text and "20.25 dB" in text and "seed 3" in text
    code = blocks_of(Path("exported/README.md"))[PIPELINE_PARTS]
    assert "num_inference_steps=6, guidance_scale=2.5)" in code
    assert "guidance_scale=7.5, image_guidance_scale=1.25)" in code
    assert '"shift": 2.0' in Path("exported/scheduler/scheduler_config.json").read_text()


def test_a_saved_generator_alone_gets_usual_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_text_generator(tmp_path).save("generator")
    assert main(["export", "generator", "--out", "exported"]) == 0
    code = blocks_of(Path("exported/README.md"))[PIPELINE_PARTS]
    assert "num_inference_steps=50, guidance_scale=7.5)" in code
