"""What urepa refuses, in words; what it plans; its sweep; its presets."""

import pytest
import torch

from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.cli import main
from latentsmith.config.compose import compose, nodes_of
from latentsmith.errors import UserError
from latentsmith.recipes.urepa.config import PretrainConfig
from latentsmith.recipes.urepa.measure import PAIRED, _few
from latentsmith.training.config import TrainConfig

PAPER = "scale=paper"


def refused(*words):
    with pytest.raises(UserError) as caught:
        compose("urepa", list(words))
    return str(caught.value)


def test_what_cannot_work_together_is_refused():
    assert "diffusion.alignment is null" in refused("scale=smoke", "diffusion.alignment=null")
    assert "source=pretrain is" in refused("scale=smoke", "pretrain=null")
    assert "source=pretrain is" in refused(PAPER, "unet.source=pretrain")
    assert "autoencoder.source is" in refused(PAPER, "autoencoder.source=scratch")
    assert "has no patch tokens" in refused("scale=smoke", "encoder@teacher=pixel_pca")
    assert "output=sequence" in refused("scale=smoke", "text_encoder.output=embedding")
    assert "without chance" in refused("scale=smoke", "transform.flip=true")
    assert "at least 2" in refused("scale=smoke", "train.batch_size=1")
    with pytest.raises(ValueError, match=r"pretrain\.unet\.source is 'somewhere'"):
        short = TrainConfig()
        PretrainConfig(autoencoder=short, denoiser=short, unet=SDUNetConfig(source="somewhere"))
    assert "random weights" in refused(PAPER, "unet.source=scratch", "experiment=full")


def test_pairs_are_measured_on_some_images_evenly():
    for count in (5, 2048, 2049, 8192):
        kept = _few(torch.arange(count))
        assert len(kept) <= PAIRED
        assert kept[0] == 0
        assert kept[-1] > 0.9 * (count - 1) or count == 5
        assert len(kept.diff().unique()) == 1


def test_one_sample_at_a_time_is_enough_for_tokens():
    words = ["scale=smoke", "train.batch_size=1", "diffusion.alignment.manifold.scope=tokens"]
    assert compose("urepa", words).train.batch_size == 1


def test_a_head_alone_has_no_control():
    config = compose("urepa", ["scale=smoke", "experiment=head_only"])
    assert not config.has_control
    assert "unaligned" not in [stage.name for stage in config.stages()]


def test_the_plan_at_full_size(capsys):
    """The spec's numbers: Stable Diffusion 1.5's, counted and not copied."""
    assert main(["run", "urepa", PAPER, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "859,520,964 parameters" in text
    assert "LoRA           155,648 parameters" in text
    assert "head           2,360,320 parameters" in text
    assert "803.6 GFLOP forward and 621.6 backward" in text  # the down blocks build no graph
    assert "6.55 GB for 200,000 images" in text
    assert "62,480 steps of 128" in text


def test_the_plan_of_all_attention(capsys):
    assert main(["run", "urepa", PAPER, "experiment=all_attention", "--dry-run"]) == 0
    assert "LoRA           1,594,368 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("name", nodes_of("urepa").presets_of("experiment"))
def test_every_experiment_composes_at_every_scale(name):
    for scale in ("smoke", "laptop", "paper"):
        words = [f"scale={scale}", f"experiment={name}"]
        if name == "documented" and scale != "paper":
            continue  # it says so
        assert compose("urepa", words).kind == "urepa"


def test_track_b_is_the_paper_with_all_images():
    a, b = compose("urepa", ["scale=paper"]), compose("urepa", ["scale=track_b"])
    assert (a.data.train_count, b.data.train_count) == (200_000, None)
    assert b.train.samples // b.train.batch_size == 400_365
    assert b.unet == a.unet


def test_laptop_takes_a_users_folder():
    words = ["scale=laptop", "data=image_folder", "data.folder=photos", "transform.channels=3"]
    config = compose("urepa", [*words, "autoencoder.in_channels=3", "transform.resolution=64"])
    assert config.data.kind == "image_folder"


def test_a_sweep_over_scopes_shares_the_pipeline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "sweep"
    words = ["scale=smoke", "experiment=full,head_only", "evaluate.times=[0.2]"]
    assert main(["sweep", "urepa", *words, "--out", str(out)]) == 0
    table = (out / "table.md").read_text()
    assert "token_cosine" not in table  # in words
    assert "Token cosine with the teacher" in table
    assert "unet.adapt=full" in table
    assert "2 of 2 runs finished" in capsys.readouterr().out
    # autoencoder and U-Net once; the whole U-Net twice (control, aligned), the head once
    assert len(trained(out)) == 2 + 2 + 1


def trained(out):
    return [p for p in (out / "shared").iterdir() if (p / "metrics.jsonl").is_file()]


def test_seeds_and_losses_share_the_pipeline(tmp_path, monkeypatch):
    """As a published pipeline does not depend on the run's seed either."""
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    words = ["scale=smoke", "diffusion.label_dropout=0.1,0.5", "seed=0,1", "--until", "denoiser"]
    assert main(["sweep", "urepa", *words, "--out", str(tmp_path / "sweep")]) == 0
    assert len(trained(tmp_path / "sweep")) == 1 + 1  # autoencoder, U-Net


def test_other_images_make_another_pipeline(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    words = ["scale=smoke", "data.train_count=96,192", "--until", "autoencoder"]
    assert main(["sweep", "urepa", *words, "--out", str(tmp_path / "sweep")]) == 0
    assert len(trained(tmp_path / "sweep")) == 2


def test_doctor_knows_what_it_needs(capsys):
    main(["doctor", "urepa"])
    text = capsys.readouterr().out
    assert "urepa scale=laptop: nothing missing" in text
    assert "urepa scale=paper: no weights" in text or "urepa scale=paper: no" in text
