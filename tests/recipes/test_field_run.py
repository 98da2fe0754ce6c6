"""The smoke run of field with another decoder beside its own, end to end, from the command line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers.explored import tabs_by_arm
from helpers.pages import assert_self_contained
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.cli import main

ARGS = ["run", "field", "scale=smoke", "compare.scan=scan"]
AUTOENCODERS = ("autoencoder", "autoencoder-scan")
FLOWS = ("values", "mamba_flow", "minimal_bottleneck")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the caches lie, for every run of this file."""
    return tmp_path_factory.mktemp("field-cache")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, cache):
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("field") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(cache))
        assert main([*ARGS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def report(smoke):
    return json.loads((smoke / "report.json").read_text())


def records(folder, stage):
    lines = (folder / "training" / stage / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == "train"]


def test_run_leaves_what_a_user_looks_for(smoke):
    assert {"config.yaml", "manifest.json", "report.html"} <= {p.name for p in smoke.iterdir()}
    for stage in AUTOENCODERS:
        assert load_autoencoder(smoke / "training" / stage / "model").kind == "field-autoencoder"
    assert (smoke / "training/latent/generator/generator.json").is_file()
    for flow in FLOWS:
        assert (smoke / "training" / flow / "flow/flow.json").is_file()
    assert_self_contained((smoke / "report.html").read_text())


def test_every_method_is_in_one_table(report):
    names = set(report["measurements"])
    assert names == {
        "mean value",
        "nearest neighbour",
        "Delaunay, linear",
        "Delaunay, cubic",
        "thin-plate splines",
        "kriging",
        "autoencoder before training",
        "bicubic of all lattice points (more is given)",
        "autoencoder, cross decoder",
        "autoencoder, scan decoder (scan)",
        "flow of values, told the code",
        "flow of values, no latent (baseline)",
        "the same, minimal bottleneck (baseline)",
    }
    for name, found in report["measurements"].items():
        numbers = {m["name"] for m in found}
        assert {"psnr_16", "psnr_24", "ssim_24", "roughness_24"} <= numbers, name
        assert ("agreement_8_24_boxes" in numbers) == ("bicubic" not in name)
        drawn = {"psnr_16_single_draw", "psnr_16_mean_of_draws", "draws_spread_16"}
        assert (drawn <= numbers) == ("flow" in name or "bottleneck" in name)


def test_functions_agree_with_themselves_and_joint_scans_do_not(report):
    def agreement(method, what):
        found = {m["name"]: m["value"] for m in report["measurements"][method]}
        return found[f"agreement_{what}"]

    for method in (
        "Delaunay, linear",
        "autoencoder, cross decoder",
        "autoencoder, scan decoder (scan)",
        "flow of values, told the code",
    ):
        assert agreement(method, "queries_subset") > 90, method
        assert agreement(method, "8_24_points") > 90, method
    # 126 dB is equality, which hardly trained heads (they start at 0) are near to anyway
    assert agreement("autoencoder, cross decoder", "queries_subset") > 125
    assert agreement("flow of values, no latent (baseline)", "queries_subset") < 100


def test_targets_and_the_answer_to_the_sources_question(report):
    names = [t["name"] for t in report["targets"]]
    assert names[:2] == ["PSNR at 16 beyond linear", "PSNR at 24 beyond linear"]
    assert names[2].startswith("PSNR at 16 beyond ") and names[2].endswith("without learning")
    assert "agreement across resolutions beyond the RGB flow's" in names
    text = json.dumps(report)
    assert "Does a bottleneck of the tokens alone improve consistency" in text
    codes = {m["name"] for m in report["measurements"]["autoencoder, cross decoder"]}
    assert {"path_unevenness", "path_middle_gradient", "linear_probe_code"} <= codes
    assert any(name.startswith("fd") for name in codes)


def test_phase_2_leaves_phase_1_as_it_was(smoke):
    """The flow's stage keeps no copy, and the saved autoencoder is the one it was told of."""
    state = load_file(smoke / "training/values/flow/model.safetensors")
    assert not any("encoder" in name for name in state)
    autoencoder = load_autoencoder(smoke / "training/autoencoder/model")
    autoencoder.require_normalizer()


@pytest.mark.parametrize("stage", ["autoencoder", "mamba_flow"])
def test_interrupted_and_resumed_equals_uninterrupted(smoke, cache, tmp_path, monkeypatch, stage):
    copy = tmp_path / "copy"
    shutil.copytree(smoke, copy)
    place = copy / "training" / stage
    checkpoints = sorted((place / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    for made in ("model", "flow"):
        shutil.rmtree(place / made, ignore_errors=True)
    (copy / "stages" / f"{stage}.json").unlink()
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    words = ["scale=smoke", "compare.scan=scan", "--out", str(copy)]
    assert main(["train", f"field.{stage}", *words]) == 0
    made = "model" if stage == "autoencoder" else "flow"
    file = f"training/{stage}/{made}/model.safetensors"
    theirs, ours = load_file(smoke / file), load_file(copy / file)
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_verbs_on_a_run(smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(smoke), "count=2", "--out", "made"]) == 0
    image = "made/images/000001.png"
    words = ["--points", image, "--inputs", "20", "--resolution", "48"]
    assert main(["reconstruct", str(smoke), *words, "--out", "fine.npz"]) == 0
    assert (tmp_path / "fine.png").is_file()
    assert main(["interpolate", str(smoke), "--out", "paths"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate.resolutions=[8,48]"], "enlarged images are no truth"),
        (["evaluate.inputs=64"], "leave some to be found"),
        (["sampling.resolution=12"], "both are the lattice"),
        (["field.dims=1", "field.latent.tokens=4"], "this recipe's data are images"),
        (["flows.mamba_flow.told=code"], "flows.mamba_flow.told must be inputs"),
        (["flows.minimal_bottleneck.bottleneck=null"], "set its channels, below the width"),
        (["evaluate.interpolation=[spline]"], "choose of"),
        (["transform.channels=1"], "set both alike"),
    ],
)
def test_mistakes_are_told(words, told, tmp_path, capsys):
    assert main(["run", "field", "scale=smoke", *words, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run_says_what_it_would_take(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "field", "scale=smoke", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "code           12x2x2" in out and "GFLOP a sample" in out


def test_golden_losses(smoke):
    """See test_mmreg_run.test_golden_losses."""
    keys = dict.fromkeys(AUTOENCODERS, "autoencoder/loss") | {"latent": "denoiser/loss"}
    for stage, golden in GOLDEN.items():
        got = [record[keys.get(stage, "flow/loss")] for record in records(smoke, stage)]
        assert got == pytest.approx(golden, rel=0.02), stage


GOLDEN = {
    "autoencoder": [0.0203621, 0.0283438, 0.0702621, 0.0616944],
    "autoencoder-scan": [0.0203621, 0.0282229, 0.0709185, 0.0616287],
    "latent": [1.73513, 2.09285, 2.71667, 2.10470],
    "values": [1.70127, 1.52428, 1.41149, 1.50719],
    "mamba_flow": [1.70127, 1.52524, 1.41385, 1.50968],
    "minimal_bottleneck": [1.70127, 1.52636, 1.41609, 1.51192],
}


def test_its_arms_can_be_explored(smoke):
    found = tabs_by_arm(smoke)
    assert list(found) == list(AUTOENCODERS)
    assert all("field" in tabs for tabs in found.values())
    assert "generate" in found["autoencoder"]
