"""Whole recipes on a GPU, or on one that is not there: no tensor is left on the CPU."""

import pytest

from latentsmith.cli import main

CASES = {
    "mmreg": ["generation.train.precision=bf16", "finetune.precision=bf16"],
    "mmreg, patch tokens, discriminator": [
        "loss=vavae", "encoder=efficientnet_lite0", "encoder.resolution=64",
        "objective.adversarial.weight=0.1", "objective.adversarial.layers=1",
        "--until", "regularized",
    ],
    "mmreg, gradient cache": ["finetune.micro_batch=8", "--until", "regularized"],
    "urepa": ["train.precision=bf16"],
    "urepa, LoRA": ["unet.adapt=lora", "--until", "aligned"],
    "psvae": ["pixel.train.precision=bf16", "train.precision=bf16"],
    "psvae, all spaces": ["experiment=spaces", "autoencoder.projector=mlp", "--until", "dit-svae"],
    "field": ["train.precision=bf16"],
    "field, S6": [
        "field.mixer=s6", "field.mixer.curves=[rows]", "field.decoder=scan", "--until", "latent",
    ],
    "textlatent": ["train.precision=bf16"],
    "textlatent, semi-supervised": [
        "experiment=semi", "learn.prior=diffusion", "network.linear=true", "--until", "cycles",
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run(case, gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    recipe, out = case.partition(",")[0], str(tmp_path / "run")
    assert main(["run", recipe, "scale=smoke", *CASES[case], "--out", out]) == 0
