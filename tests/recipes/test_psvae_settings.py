"""What psvae refuses, in words; what it plans; its presets."""

import pytest

from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.errors import UserError


def refused(*words):
    with pytest.raises(UserError) as caught:
        compose("psvae", ["scale=smoke", *words])
    return str(caught.value)


def test_what_cannot_work_together_is_refused():
    assert "without chance: set transform.flip=false" in refused("transform.flip=true")
    assert "output=sequence" in refused("text_encoder.output=embedding")
    text = refused("svae.objective.encoder_lr=0.1")
    assert "svae.objective.encoder_lr is 0.1, and S-VAE keeps the encoder frozen" in text
    assert "has no patch tokens" in refused("autoencoder.encoder=pixel_pca")
    assert "pairs=eqvae is no loss over pairs of images" in refused("svae.pairs=eqvae")
    assert "set both alike" in refused("transform.channels=1")
    assert "width 30 must be a multiple of heads 4" in refused(
        "autoencoder.projector.width=30", "autoencoder.projector.heads=4"
    )
    assert "no multiples of groups" in refused("autoencoder.decoder.groups=5")


def test_a_grid_that_does_not_decode_to_the_images_is_told(capsys, tmp_path):
    words = ["scale=smoke", "autoencoder.encoder.resolution=96", "--out", str(tmp_path / "run")]
    assert main(["run", "psvae", *words, "--dry-run"]) == 2
    assert "3 x 3 tokens decodes to 48 x 48 pixels" in capsys.readouterr().err


def test_the_plan_at_the_sources_size(capsys, monkeypatch, tmp_path):
    """DINOv2-L, 96 channels of 16 x 16, T5-XXL: shapes assumed where nothing is at hand."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["run", "psvae", "scale=paper", "--dry-run", "--out", str(tmp_path / "x")]) == 0
    text = capsys.readouterr().out
    assert "dinov2 (not at hand here; DINOv2-L's shape assumed), 304,368,640 parameters" in text
    assert "latents 96x16x16" in text
    assert "GFLOP a sample" in text
    assert "days of one H100" in text
    assert "98.3 GB for 1,000,000" in text


def test_the_sources_own_choices_compose():
    config = compose("psvae", ["scale=paper", "experiment=documented"])
    assert config.autoencoder.projector.kind == "mlp"
    assert config.backbone.predicts == config.diffusion.objective == "noise"
    assert config.diffusion.path.beta_start == 1e-4
    assert config.diffusion.path.beta_end == 0.02
    assert config.evaluate.guidance.scale == 7.5
    weights = config.pixel.objective
    assert (weights.semantic, weights.l1 + weights.mse, weights.perceptual.weight, weights.kl) == (
        1.0, 1.0, 0.1, 1e-4,
    )  # fmt: skip
    assert weights.kl_reduction == "mean"


def test_arms_and_stages():
    config = compose("psvae", ["scale=smoke", "experiment=spaces"])
    assert config.arms == ["vae", "rae", "svae", "psvae"]
    names = [stage.name for stage in config.stages()]
    assert names == [
        "svae", "pixel", "vae", "rae", "caches", "dit", "dit-svae", "dit-rae", "dit-vae",
        "measure", "report",
    ]  # fmt: skip
    alone = [stage.name for stage in compose("psvae", ["scale=smoke"]).stages()]
    assert alone == ["svae", "pixel", "caches", "dit", "measure", "report"]
