"""VA-VAE and EQ-VAE through the command line, with a teacher whose tokens are cached."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_models import tiny_dinov2
from latentsmith.cli import main

STAGES = ["references", "pretrain", "regularized"]


def train(folder, teacher, stages=STAGES):
    words = ["scale=smoke", "loss=vavae", "more_losses.eq=eqvae", "encoder=dinov2"]
    words += [f"encoder.source={teacher}", "encoder.resolution=28", "finetune.micro_batch=8"]
    for stage in stages:
        assert main(["train", f"mmreg.{stage}", *words, "--out", str(folder)]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run folder, teacher, cache) after the regularized arm."""
    base = tmp_path_factory.mktemp("rivals")
    teacher = tiny_dinov2(base / "teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(base / "cache"))
        train(base / "run", teacher)
    return base / "run", teacher, base / "cache"


def weights(folder):
    return load_file(
        folder / "training" / "regularized" / "model" / "diffusion_pytorch_model.safetensors"
    )


def test_parts_are_logged_and_the_projection_stays_out_of_the_export(trained):
    folder, _, cache = trained
    log = folder / "training" / "regularized" / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    parts = {"vavae/cosine", "vavae/relation", "eq/reconstruction"}
    for kind, more in (("train", {"vavae/adaptive"}), ("validation", set())):
        named = {key for record in records if record["kind"] == kind for key in record}
        assert all(any(key.endswith(part) for key in named) for part in parts | more), kind
    (store,) = (cache / "stores").glob("tokens-dinov2-*")  # training images alone
    assert json.loads((store / "manifest.json").read_text())["manifest"]["count"] == 192
    assert not [key for key in weights(folder) if "projection" in key]
    saved = [
        key
        for file in (folder / "training" / "regularized" / "checkpoints").rglob("*.safetensors")
        for key in load_file(file)
    ]
    assert any("projection" in key for key in saved)


def test_resumed_equals_uninterrupted(trained, tmp_path, monkeypatch):
    folder, teacher, cache = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    arm = copy / "training" / "regularized"
    checkpoints = sorted((arm / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert len(checkpoints) >= 2
    shutil.rmtree(checkpoints[-1])
    shutil.rmtree(arm / "model")
    (copy / "stages" / "regularized.json").unlink()
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    train(copy, teacher, ["regularized"])
    for name, value in weights(folder).items():
        assert torch.equal(value, weights(copy)[name]), name
