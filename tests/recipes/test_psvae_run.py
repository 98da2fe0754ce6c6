"""The smoke run of psvae with all its latent spaces, end to end, through the command line."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from helpers.explored import tabs_by_arm
from helpers.pages import assert_self_contained
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.cli import main
from latentsmith.config.run import Run
from latentsmith.metrics.shapes_judge.judge import Judge
from latentsmith.metrics.shapes_judge.network import JudgeNet
from latentsmith.recipes.psvae.inputs import Inputs
from latentsmith.recipes.psvae.measure import Measurer
from latentsmith.recipes.psvae.report import _table, targets
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.training.team import Team

ARGS = ["run", "psvae", "scale=smoke", "experiment=spaces"]
AUTOENCODERS = {"svae": "svae", "psvae": "pixel", "rae": "rae", "vae": "vae"}
GENERATORS = {"svae": "dit-svae", "psvae": "dit", "rae": "dit-rae", "vae": "dit-vae"}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the caches lie, for every run of this file."""
    return tmp_path_factory.mktemp("psvae-cache")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, cache):
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("psvae") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(cache))
        assert main([*ARGS, "--out", str(folder)]) == 0
    return folder


def records(folder, stage, kind):
    lines = (folder / "training" / stage / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def weights(folder, stage="dit"):
    file = "generator/backbone/diffusion_pytorch_model.safetensors"
    return load_file(folder / "training" / stage / file)


def test_run_leaves_what_a_user_looks_for(smoke):
    names = {p.name for p in smoke.iterdir()}
    assert {"config.yaml", "manifest.json", "report.html", "report.json"} <= names
    for stage in AUTOENCODERS.values():
        assert (smoke / "training" / stage / "model/config.json").is_file()
    for stage in GENERATORS.values():
        assert (smoke / "training" / stage / "generator/generator.json").is_file()


def test_report_fills_the_sources_table(smoke):
    assert_self_contained((smoke / "report.html").read_text())
    report = json.loads((smoke / "report.json").read_text())
    assert set(report["measurements"]) == {"pixel VAE", "RAE", "S-VAE", "PS-VAE"}
    for arm, found in report["measurements"].items():
        numbers = {m["name"]: m["value"] for m in found}
        assert 0 < numbers["off_manifold_images"] < 100
        assert {"psnr", "ssim", "linear_probe_latent", "linear_probe_encoder"} <= set(numbers)
        assert ("feature_mse" in numbers) == ("off_manifold_features" in numbers)
        assert ("feature_mse" in numbers) == (arm != "pixel VAE")
    assert_table_of_spaces(report)
    targets = {t["name"] for t in report["targets"]}
    assert targets == {
        "pixels: PSNR beyond S-VAE's",
        "semantics: linear probe beyond the pixel VAE's",
        "on manifold: generated images nearer to real ones than RAE's",
    }


def assert_table_of_spaces(report):
    """Four rows, every number there but the attributes, which smoke does not judge."""
    [table] = report["sections"][0]["items"]
    assert table["columns"][-1] == "generation: Fréchet distance" and len(table["rows"]) == 4
    for row in table["rows"]:
        names = [cell["measurement"]["name"] for cell in row[3:6] + row[7:]]
        assert names == [
            "psnr", "linear_probe_latent", "off_manifold_images", "fd_efficientnet_lite0",
        ]  # fmt: skip


def test_rae_is_the_encoder_as_it_is(smoke):
    rae = load_autoencoder(smoke / "training/rae/model")
    assert rae.latent_channels == 1280
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    posterior = rae.encode(images)
    assert torch.equal(rae.decode_features(posterior.mean), posterior.features)
    report = json.loads((smoke / "report.json").read_text())
    numbers = {m["name"]: m["value"] for m in report["measurements"]["RAE"]}
    assert numbers["feature_mse"] < 1e-10  # nothing lies between
    assert numbers["token_cosine_features"] == pytest.approx(1.0)


def test_only_psvae_moves_the_encoder(smoke):
    found = {}
    for arm, stage in AUTOENCODERS.items():
        if arm != "vae":
            state = load_file(smoke / "training" / stage / "model/model.safetensors")
            found[arm] = {k: v for k, v in state.items() if k.startswith("encoder.")}
    for name, value in found["rae"].items():
        assert torch.equal(value, found["svae"][name]), name
    assert any(not torch.equal(v, found["psvae"][k]) for k, v in found["svae"].items())


def test_psvae_starts_from_svae(smoke):
    first = records(smoke, "pixel", "validation")[0]
    last = records(smoke, "svae", "validation")[-1]
    for part in ("semantic", "l1", "kl"):
        assert first[part] == pytest.approx(last[part], rel=1e-4)


def test_both_kinds_of_sample_are_learned_and_validated(smoke):
    for record in records(smoke, "dit", "validation"):
        assert record["text_to_image"] > 0
        assert record["edit"] > 0


def test_the_same_command_finds_everything_done(smoke, cache, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    marks = {p: p.stat().st_mtime_ns for p in smoke.rglob("*.safetensors")}
    assert main([*ARGS, "--out", str(smoke)]) == 0
    assert {p: p.stat().st_mtime_ns for p in smoke.rglob("*.safetensors")} == marks


@pytest.mark.parametrize("stage", ["pixel", "dit"])
def test_interrupted_and_resumed_equals_uninterrupted(smoke, cache, tmp_path, monkeypatch, stage):
    """Cut a stage off after half its samples, go on, get the same weights bit for bit."""
    copy = tmp_path / "copy"
    shutil.copytree(smoke, copy)
    place = copy / "training" / stage
    checkpoints = sorted((place / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    for made in ("model", "generator"):
        shutil.rmtree(place / made, ignore_errors=True)
    (copy / "stages" / f"{stage}.json").unlink()
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    words = ["scale=smoke", "experiment=spaces", "--out", str(copy)]
    assert main(["train", f"psvae.{stage}", *words]) == 0
    if stage == "dit":
        theirs, ours = weights(smoke), weights(copy)
    else:
        file = f"training/{stage}/model/model.safetensors"
        theirs, ours = load_file(smoke / file), load_file(copy / file)
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), name


def test_prompts_edits_and_variations_from_the_command_line(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["sampler.steps=2"]
    prompt = ["--prompt", "a small red star at the top left on a black background"]
    assert main(["sample", str(smoke), *prompt, *few, "count=2", "--out", "made"]) == 0
    image = "made/images/000001.png"
    told = ["--instruction", "make the background white"]
    assert main(["edit", str(smoke), "--image", image, *told, *few, "--out", "edited"]) == 0
    assert list((tmp_path / "edited/images").glob("*.png"))
    assert main(["variation", str(smoke), "--image", image, *prompt, *few, "--out", "varied"]) == 0
    ends = [*prompt, "--prompt", "a large blue ring"]
    assert main(["interpolate", str(smoke), "--model", "dit", *ends, *few, "--out", "paths"]) == 0
    assert len(list((tmp_path / "paths/images").glob("*.png"))) == 9


def test_mmreg_goes_on_top(tmp_path):
    words = ["scale=smoke", "svae.pairs=pearson", "svae.pairs.weight=0.1"]
    assert main(["train", "psvae.svae", *words, "--out", str(tmp_path / "run")]) == 0
    for record in records(tmp_path / "run", "svae", "train"):
        assert 0 < record["autoencoder/pairs/encoder"] < 2  # 1 - correlation


def test_generators_say_what_they_were_trained_on(smoke):
    generator = LatentGenerator.load(smoke / "training/dit/generator")
    assert generator.info.training["edits"]
    assert generator.info.classes is None
    text = generator.prompt(["a red star"])
    assert text["text"].shape == (1, 24, 384)


def test_golden_losses(smoke):
    """See test_mmreg_run.test_golden_losses."""
    for stage, golden in GOLDEN.items():
        key = "denoiser/loss" if stage == "dit" else "autoencoder/loss"
        got = [record[key] for record in records(smoke, stage, "train")]
        assert got == pytest.approx(golden, rel=0.02), stage


GOLDEN = {
    "svae": [1.41415, 1.66793, 1.76381, 2.52324],
    "pixel": [1.31465, 1.58534, 1.68543, 2.44695],
    "dit": [2.34595, 2.10292, 2.0047, 2.05697],
}


def test_captioned_shapes_are_judged(smoke, cache, monkeypatch):
    """Attributes of reconstructions, of generated and of edited images, by an untrained judge."""
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    record = {"made": {"resolution": 32}, "accuracy": {"clean": {"joint": 1.0, "n": 1}}}
    judge = Judge(JudgeNet(8), record)
    monkeypatch.setattr(Judge, "load_or_train", classmethod(lambda cls, *_: judge))
    config = Run.load(smoke).config
    config = replace(config, evaluate=replace(config.evaluate, judge=True))
    team = Team.join(several_objectives=False)
    generator = LatentGenerator.load(smoke / "training/dit/generator")
    card = Measurer(config, Inputs(config, team), team).card(generator, "psvae")
    found = {m.name: m for m in card}
    for name in (
        "attribute_accuracy_background",
        "attribute_accuracy_background_reconstructed",
        "attribute_accuracy_joint",
        "edit_accuracy_changed",
        "edit_accuracy_kept",
    ):
        assert 0 <= found[name].value <= 1
    names = [t.name for t in targets({"psvae": card})]
    assert names == [
        "text: all mentioned attributes right",
        "editing: the requested attribute right",
        "editing: untouched attributes kept",
    ]
    shown = [row[0] for row in _table({"psvae": card}, ("attribute_accuracy",), "").rows]
    assert shown
    assert not any(name.endswith("_reconstructed") for name in shown)


def test_its_arms_can_be_explored(smoke):
    found = tabs_by_arm(smoke)
    assert set(found) == set(AUTOENCODERS.values())
    assert all("edit" in tabs and "map" in tabs for tabs in found.values())
