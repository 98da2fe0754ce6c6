"""The smoke run of urepa, end to end, through the command line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers.explored import tabs_by_arm
from helpers.pages import assert_self_contained
from latentsmith.cli import main
from latentsmith.config.run import Run
from latentsmith.encoders.denoiser import DenoiserConfig
from latentsmith.sampling.generator import LatentGenerator

ARGS = ["run", "urepa", "scale=smoke"]
ARMS = ("unaligned", "aligned")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the caches lie, for every run of this file."""
    return tmp_path_factory.mktemp("urepa-cache")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, cache):
    """A finished smoke run."""
    folder = tmp_path_factory.mktemp("urepa") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(cache))
        assert main([*ARGS, "--out", str(folder)]) == 0
    return folder


def trained(folder, arm):
    """What an arm's generator holds of its own."""
    return load_file(folder / "training" / arm / "generator/backbone/trainable.safetensors")


def records(folder, arm, kind):
    lines = (folder / "training" / arm / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def test_run_leaves_what_a_user_looks_for(smoke):
    names = {p.name for p in smoke.iterdir()}
    assert {"config.yaml", "overrides.txt", "manifest.json", "report.html", "report.json"} <= names
    pipeline = smoke / "training/denoiser/pipeline"
    assert {p.name for p in pipeline.iterdir()} == {"unet", "vae", "scheduler"}
    for arm in ARMS:
        assert (smoke / "training" / arm / "metrics.jsonl").is_file()
        assert (smoke / "training" / arm / "generator/generator.json").is_file()
    assert (smoke / "training/aligned/generator/alignment.safetensors").is_file()
    assert not (smoke / "training/unaligned/generator/alignment.safetensors").exists()


def test_report_compares_three_networks_with_stamps(smoke):
    assert_self_contained((smoke / "report.html").read_text())
    report = json.loads((smoke / "report.json").read_text())
    assert set(report["measurements"]) == {"base", "unaligned", "aligned", "teacher"}
    required = [t["name"] for t in report["targets"] if t["required"]]
    assert required == [
        "tokens: cosine with the teacher's",
        "features: linear probe",
        "features: k-NN probe",
        "generation: Fréchet distance",
    ]
    numbers = {m["name"]: m for m in report["measurements"]["aligned"]}
    for t in ("t0.1", "t0.4"):
        for name in ("token_cosine_linear", "token_cosine_head", "linear_probe", "knn_probe"):
            assert -1 <= numbers[f"{name}_{t}"]["value"] <= 1
        assert numbers[f"token_cosine_head_{t}"]["baseline"] is not None
        assert f"similarity_mae_head_{t}" in numbers
        assert f"mutual_knn_k1_{t}" in numbers
    detail = numbers["token_cosine_head_t0.1"]["stamp"]["detail"]
    assert detail["arm"] == "aligned"
    assert detail["time"] == 0.1
    assert detail["tap"] == "mid"
    ceiling = {m["name"] for m in report["measurements"]["teacher"]}
    assert ceiling == {"linear_probe_teacher", "knn_probe_teacher"}
    base = {m["name"] for m in report["measurements"]["base"]}
    assert "token_cosine_linear_t0.1" in base
    assert "token_cosine_head_t0.1" not in base


def test_both_arms_leave_from_the_same_start_and_part(smoke):
    first = [records(smoke, arm, "validation")[0] for arm in ARMS]
    key = next(k for k in first[0] if k.endswith("loss"))
    assert first[0][key] == first[1][key]
    plain, new = (trained(smoke, arm) for arm in ARMS)
    lora = [name for name in plain if ".lora_" in name]
    assert lora
    assert any(not torch.equal(plain[name], new[name]) for name in lora)
    assert not any(
        "lora" not in k and "null" not in k for k in plain
    )  # the frozen part is not kept


def test_checkpoints_hold_the_trainable_part_only(smoke):
    newest = max((smoke / "training/aligned/checkpoints").iterdir(), key=lambda p: int(p.name))
    names = [name for file in newest.glob("*.safetensors") for name in load_file(file)]
    assert any(".lora_" in name for name in names)
    assert any("aligner.heads" in name for name in names)
    frozen = [n for n in names if "unet" in n and ".lora_" not in n]
    assert not frozen


def test_the_zero_predictor_stands_beside_the_loss(smoke):
    for record in records(smoke, "aligned", "train"):
        assert record["denoiser/zero"] == pytest.approx(1.0, abs=0.15)  # noise has variance 1


def test_the_pipeline_loads_in_diffusers_and_as_source(smoke):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    folder = smoke / "training/denoiser/pipeline"
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert scheduler.config.beta_schedule == "scaled_linear"
    assert scheduler.config.prediction_type == "epsilon"
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    assert vae.config.scaling_factor != 0.18215
    base = LatentGenerator.load(smoke / "training/unaligned/generator").backbone
    mine = {k: v for k, v in base.unet.state_dict().items() if ".lora_" not in k}
    for name, value in unet.state_dict().items():
        found = mine.get(name, mine.get(name.replace(".weight", ".base_layer.weight")))
        found = mine.get(name.replace(".bias", ".base_layer.bias")) if found is None else found
        assert torch.equal(found, value), name


def test_the_same_command_finds_everything_done(smoke, cache, capsys, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    before = json.loads((smoke / "report.json").read_text())
    marks = {p: p.stat().st_mtime_ns for p in smoke.rglob("*.safetensors")}
    assert main([*ARGS, "--out", str(smoke)]) == 0
    assert {p: p.stat().st_mtime_ns for p in smoke.rglob("*.safetensors")} == marks
    assert json.loads((smoke / "report.json").read_text())["targets"] == before["targets"]
    assert "report.html" in capsys.readouterr().out


def test_interrupted_and_resumed_equals_uninterrupted(smoke, cache, tmp_path, monkeypatch):
    """Cut the aligned arm off after half its samples, go on, get the same weights bit for bit."""
    copy = tmp_path / "copy"
    shutil.copytree(smoke, copy)
    arm = copy / "training" / "aligned"
    checkpoints = sorted((arm / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    shutil.rmtree(arm / "generator")
    for stage in ("aligned", "measure", "report"):
        (copy / "stages" / f"{stage}.json").unlink()
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    assert main([*ARGS, "--out", str(copy)]) == 0
    for name, value in trained(smoke, "aligned").items():
        assert torch.equal(value, trained(copy, "aligned")[name]), name
    theirs, ours = (
        load_file(f / "training/aligned/generator/alignment.safetensors") for f in (smoke, copy)
    )
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), name
    scores = [json.loads((f / "measurements/aligned.json").read_text()) for f in (smoke, copy)]
    assert scores[0] == scores[1]


def test_generators_sample_and_give_features(smoke, tmp_path, capsys):
    out = tmp_path / "samples"
    words = ["sample", str(smoke), "count=8", "guidance=cfg", "guidance.scale=2"]
    assert main([*words, "sampler=ddim", "sampler.steps=3", "--out", str(out)]) == 0
    assert len(list((out / "images").glob("*.png"))) == 8
    assert "samples.png" in capsys.readouterr().out + str(list(out.iterdir()))
    folder = str(smoke / "training/aligned/generator")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = DenoiserConfig(source=folder, tap="mid", time=0.1).build()
    assert plain(images).tokens.shape == (2, 16, 16)
    assert plain.dense(images, (16, 16)).shape == (2, 16, 16, 16)
    head = DenoiserConfig(source=folder, project=True, time=0.1).build()
    assert head(images).tokens.shape == (2, 16, 1280)


def test_generators_read_new_prompts_and_vary_images(smoke, tmp_path, monkeypatch):
    folder = smoke / "training/aligned/generator"
    generator = LatentGenerator.load(folder)
    assert generator.info.classes is not None and generator.texts is not None
    template = Run.load(smoke).config.template
    said = generator.prompt([template.replace("{}", name) for name in generator.info.classes])
    known = generator.texts.condition(torch.arange(len(generator.info.classes)))
    # stored in float16
    torch.testing.assert_close(said["text"], known["text"].float(), rtol=1e-2, atol=2e-3)
    monkeypatch.chdir(tmp_path)
    words = ["--prompt", "a photo of a star", "sampler.steps=1"]
    assert main(["sample", str(smoke), *words, "count=2", "--out", "samples"]) == 0
    image = "samples/images/000001.png"
    assert main(["variation", str(smoke), "--image", image, *words, "--out", "edits"]) == 0
    ends = [*words, "--prompt", "a photo of a ring", "steps=3"]
    assert main(["interpolate", str(smoke), *ends, "--out", "paths"]) == 0
    assert len(list((tmp_path / "paths/images").glob("*.png"))) == 3
    record = json.loads((tmp_path / "edits/edits.json").read_text())
    run = Run.load(smoke).config
    assert record["settings"]["crop"] == run.transform.crop
    assert record["settings"]["guidance"]["kind"] == run.evaluate.guidance.kind


def test_another_setting_in_the_same_folder_is_refused(smoke, capsys):
    assert main([*ARGS, "unet.lora.rank=4", "--out", str(smoke)]) == 2
    text = capsys.readouterr().err
    assert "unet.lora.rank" in text
    assert "--fresh" in text


def test_golden_losses(smoke):
    """See test_mmreg_run.test_golden_losses."""
    for arm, golden in GOLDEN.items():
        key = "autoencoder/loss" if arm == "autoencoder" else "denoiser/loss"
        got = [record[key] for record in records(smoke, arm, "train")]
        assert got == pytest.approx(golden, rel=0.02), arm


GOLDEN = {
    "autoencoder": [0.30963, 0.39117, 0.32637, 0.35],
    "denoiser": [1.00066, 1.0112, 0.98594, 1.0183],
    "unaligned": [0.98612, 1.00118, 0.98176, 1.01739],
    "aligned": [0.98612, 1.85861, 1.66858, 1.58779],
}


def test_loading_a_run_gives_its_settings_back(smoke):
    run = Run.load(smoke)
    assert run.config.kind == "urepa"
    assert run.config.unet.lora.scope == "mid"
    assert run.config.diffusion.objective is None
    assert run.finished


def test_its_arms_can_be_explored(smoke):
    found = tabs_by_arm(smoke)
    assert tuple(found)[-2:] == ARMS  # on one autoencoder
    assert all({"map", "generate", "inpaint"} <= set(found[arm]) for arm in ARMS)
