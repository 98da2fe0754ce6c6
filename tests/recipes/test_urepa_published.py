"""urepa on a pipeline in the hub's format: only the settings' sources change from tiny to full."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from helpers.small_urepa import SMALL
from helpers.tiny_models import tiny_dinov2, tiny_whole_clip
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.sampling.generator import LatentGenerator


def words(pipeline, teacher):
    """The paper's settings with the sources, sizes and lengths of a test."""
    return [
        "scale=paper", *SMALL, f"autoencoder.source={pipeline}", f"unet.source={pipeline}",
        f"text_encoder.source={pipeline}/text_encoder",
        f"text_encoder.tokenizer={pipeline}/tokenizer", "text_encoder.projection=false",
        f"teacher.source={teacher}", "teacher.resolution=56", "unet.frozen_dtype=float32",
        'template="a {}"',
    ]  # fmt: skip


@pytest.fixture(scope="module")
def places(tiny_pipelines, tmp_path_factory):
    """(words of the settings, cache)."""
    base = tmp_path_factory.mktemp("published")
    tiny_whole_clip(base / "clip")
    given = words(tiny_pipelines("sd15"), tiny_dinov2(base / "teacher"))
    return [*given, f"evaluate.clip={base / 'clip'}"], base / "cache"


@pytest.fixture(scope="module")
def aligned(places, tmp_path_factory):
    """A finished run with a control."""
    given, cache = places
    folder = tmp_path_factory.mktemp("published-run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTSMITH_CACHE", str(cache))
        assert main(["run", "urepa", *given, "control=true", "--out", str(folder)]) == 0
    return folder


def test_it_runs_from_the_hubs_format_and_reports(aligned):
    report = json.loads((aligned / "report.json").read_text())
    assert set(report["measurements"]) == {"base", "unaligned", "aligned", "teacher"}
    scores = {a: m for a, ms in report["measurements"].items() for m in ms if "clip" in m["name"]}
    assert set(scores) == {"base", "unaligned", "aligned"}
    assert all(0 <= m["value"] <= 100 and m["baseline"] is not None for m in scores.values())
    counts = json.loads((aligned / "stages/aligned.json").read_text())["summary"]["parameters"]
    assert counts["lora"] == counts["trainable"] > 0
    assert counts["head"] == 48 * 16 + 16 + 16 * 16  # as 1280 → 1024 → 1024, last without bias


def test_latents_have_the_published_scale(aligned):
    folder = aligned / "training/autoencoder/model"
    normalizer = KLAutoencoderConfig(source=str(folder)).build().require_normalizer()
    assert normalizer.stated
    assert (1 / normalizer.std).tolist() == pytest.approx([0.18215] * 4)


def test_the_empty_prompt_is_the_text_models_own(aligned, places, tiny_pipelines):
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = tiny_pipelines("sd15")
    tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
    ids = tokenizer("", padding="max_length", max_length=20, return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = CLIPTextModel.from_pretrained(f"{folder}/text_encoder")(ids).last_hidden_state[0]
    generator = LatentGenerator.load(aligned / "training/aligned/generator")
    assert torch.allclose(generator.backbone.conditions.null_text, theirs, atol=2e-3)  # float16


def test_lora_exports_into_diffusers_own_pipeline(aligned, tiny_pipelines, tmp_path):
    """What load_lora_weights makes of the export says what our network says."""
    from diffusers import StableDiffusionPipeline

    generator = LatentGenerator.load(aligned / "training/aligned/generator")
    generator.backbone.export_lora(tmp_path / "lora")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipelines("sd15"), safety_checker=None)
    pipeline.load_lora_weights(tmp_path / "lora")
    rng = torch.Generator().manual_seed(0)
    z, text = torch.randn(2, 4, 16, 16, generator=rng), torch.randn(2, 20, 24, generator=rng)
    with torch.no_grad():
        ours = generator.backbone(z, torch.full((2,), 0.5), {"text": text}).sample
        step = generator.backbone.index(torch.full((2,), 0.5))
        theirs = pipeline.unet(z, step, text).sample
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_captions_take_the_place_of_classes(places, tmp_path, monkeypatch):
    given, cache = places
    monkeypatch.setenv("LATENTSMITH_CACHE", str(cache))
    out = tmp_path / "run"
    assert main(["run", "urepa", *given, "texts=captions", "--out", str(out)]) == 0
    generator = LatentGenerator.load(out / "training/aligned/generator")
    assert generator.info.classes is None
    texts = json.loads((out / "stages/caches.json").read_text())["summary"]["train"]["texts"]
    assert len(load_file(f"{texts}/text_of_sample.safetensors")["row"]) == 192
    report = json.loads((out / "report.json").read_text())
    assert any(m["name"].startswith("fd_") for m in report["measurements"]["aligned"])


def test_the_documented_preset_takes_the_noise_for_v(places):
    given, _ = places
    plain = compose("urepa", given)
    letter = compose("urepa", ["experiment=documented", *given])
    assert plain.unet.predicts is None
    network = replace(letter.unet, text_length=20).build((4, 16, 16))
    assert network.predicts == "v"
    assert network.config.path.schedule == "linear"
    assert letter.diffusion.of(network, aligned=True).objective == "v"
    network = replace(plain.unet, text_length=20).build((4, 16, 16))
    assert network.predicts == "noise"
    assert network.config.path.schedule == "scaled_linear"
    found = plain.diffusion.of(network, aligned=False)
    assert (found.objective, found.path, found.alignment) == ("noise", network.config.path, None)


def test_an_objective_of_its_own_is_kept(places):
    config = compose("urepa", [*places[0], "diffusion.objective=v"])
    network = replace(config.unet, text_length=20).build((4, 16, 16))
    found = config.diffusion.of(network, aligned=True)
    assert (network.predicts, found.objective) == ("noise", "v")


def test_a_moved_run_still_gives_its_generators(aligned, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(aligned, moved)
    generator = LatentGenerator.load(moved / "training/aligned/generator")
    assert generator.autoencoder is not None
