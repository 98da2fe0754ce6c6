"""The segmentation recipe end to end, through the command line."""

import json

import pytest

from helpers.pages import assert_self_contained
from helpers.tiny_models import tiny_generator
from latentsmith.cli import main

WORDS = ["data.resolution=16", "transform.resolution=16", "probe.resamples=20"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    source = tiny_generator(tmp_path_factory.mktemp("generator"))
    return [*WORDS, "encoder=denoiser", f"encoder.source={source}"]


def test_a_generator_is_measured_once(words, tmp_path, capsys):
    args = ["run", "segmentation", *words, "train_count=30", "count=8", "--out", str(tmp_path)]
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "Segmentation probe, mIoU, denoiser" in shown and "card.html" in shown
    page = (tmp_path / "card.html").read_text()
    assert_self_contained(page)
    assert "half-circle" in page and "30 images to fit, 8 measured" in page
    assert "NaN" not in page  # few images: some shapes are nowhere, and their cells are empty
    numbers = json.loads((tmp_path / "measurements.json").read_text())["measurements"]
    assert [m["name"] for m in numbers] == [
        "mean_iou_denoiser", "pixel_accuracy_denoiser", "mean_iou_pixels", "pixel_accuracy_pixels"
    ]  # fmt: skip
    assert all(m["stamp"]["count"] == 8 and m["interval"] for m in numbers)
    (tmp_path / "card.html").unlink()  # done is done: nothing is measured or written again
    assert main(args) == 0
    assert not (tmp_path / "card.html").exists()


def test_the_run_s_seed_draws_other_pixels(words, tmp_path):
    found = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(found))
        assert (
            main(
                [
                    "run",
                    "segmentation",
                    *words,
                    "train_count=30",
                    "count=30",
                    f"seed={seed}",
                    "--out",
                    str(folder),
                ]
            )
            == 0
        )
        found.append(json.loads((folder / "measurements.json").read_text())["measurements"])
    assert found[0] == found[1] != found[2]
    assert found[2][0]["stamp"]["seed"] == 1


def test_refusals(words, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main(["run", "segmentation", "encoder=pixel_pca", *out]) == 2
    text = capsys.readouterr().err
    assert "encoder pixel_pca has no tokens" in text and "dinov2" in text
    assert main(["run", "segmentation", *words[1:], "data=digits", *out]) == 2
    assert "digits/val does not know the class of every pixel" in capsys.readouterr().err


def test_dry_run_loads_the_encoder_alone(words, tmp_path, capsys):
    assert main(["run", "segmentation", *words, "--dry-run", "--out", str(tmp_path / "x")]) == 0
    assert "4 x 4 tokens of an image of shapes" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
