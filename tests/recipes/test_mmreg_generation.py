"""Stage C of mmreg at smoke scale: latents, generators, scores, and what can be done with them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.small_mmreg import ARGS
from helpers.tiny_models import tiny_dinov2
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.cli import main
from latentsmith.config.run import Run
from latentsmith.errors import UserError
from latentsmith.reports.glossary import label
from latentsmith.reports.page import load_report
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.stores.base import open_store

ARMS = ("baseline", "regularized")


@pytest.fixture(autouse=True)
def own_cache(mmreg_cache, monkeypatch):
    monkeypatch.setenv("LATENTSMITH_CACHE", str(mmreg_cache))


@pytest.fixture
def early(mmreg_early):
    return mmreg_early


@pytest.fixture
def whole(mmreg_whole):
    return mmreg_whole


def targets(folder):
    report = json.loads((folder / "report.json").read_text())
    return {t["name"]: t for t in report["targets"]}


def test_until_measure_leaves_stage_c_open(early):
    assert targets(early)["C: generation"]["verdict"] == "not measured"
    assert not (early / "training" / "latents-baseline").exists()
    assert not Run.load(early).finished


def test_going_on_trains_nothing_again(early, whole):
    before, after = (
        sorted((f / "training" / "regularized" / "checkpoints").iterdir()) for f in (early, whole)
    )
    assert [p.name for p in before] == [p.name for p in after]
    assert Run.load(whole).finished and "C: generation" not in targets(whole)


@pytest.mark.parametrize("arm", ARMS)
def test_latents_are_this_arms_posterior(whole, arm):
    store = open_store(whole / "training" / f"latents-{arm}")
    model = whole / "training" / arm / "model"
    autoencoder = KLAutoencoderConfig(source=str(model)).build().eval()
    assert store.manifest.encoder["weights"] == autoencoder.encoder_digest()
    config = Run.load(whole).config
    images = config.data.build("train", whole).gather(torch.arange(4))["image"]
    transform = config.transform.deterministic().build()
    rows = store.gather(torch.arange(4))
    with torch.no_grad():
        posterior = autoencoder.encode(transform.batch(images, torch.empty(4, 0)))
    assert torch.allclose(rows["mean"].float(), posterior.mean, atol=2e-3, rtol=2e-3)
    assert torch.allclose(rows["logvar"].float(), posterior.logvar, atol=2e-2, rtol=2e-3)


def test_arms_differ_in_their_latents_alone(whole):
    """Same start, order, times, noise and dropped labels: the loss of the zero prediction, which
    the network has no part in, differs only by the latents."""
    first = {}
    for arm in ARMS:
        log = whole / "training" / f"generator-{arm}-0" / "metrics.jsonl"
        first[arm] = [json.loads(line) for line in log.read_text().splitlines()]
    start = [records[0] for records in first.values()]
    assert start[0]["kind"] == "validation"
    a, b = (r["zero"] for r in start)
    assert a != b and a == pytest.approx(b, rel=0.2)
    weights = [
        load_file(whole / "training" / f"generator-{arm}-0" / "generator" / "backbone" /
                  "diffusion_pytorch_model.safetensors")
        for arm in ARMS
    ]  # fmt: skip
    assert weights[0].keys() == weights[1].keys()


def test_scores_at_every_milestone(whole):
    report = json.loads((whole / "report.json").read_text())
    for arm in ARMS:
        names = {m["name"] for m in report["measurements"][arm]}
        assert {f"generated_fd_at_{n}_pixel_pca" for n in (32, 64)} <= names
    title = next(s for s in report["sections"] if s["title"] == "Generation")
    assert len(title["items"]) == 3  # curves, table, grids


def test_a_generator_cut_off_goes_on_to_the_same_scores(whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    place = copy / "training" / "generator-regularized-0"
    shutil.rmtree(place / "generator")
    shutil.rmtree(max((place / "checkpoints").iterdir()))
    for suffix in ("json", "safetensors"):
        (place / "scores" / f"64.{suffix}").unlink()
    for stage in ("generator-regularized", "report"):
        (copy / "stages" / f"{stage}.json").unlink()
    assert main([*ARGS, "--out", str(copy)]) == 0
    theirs = whole / "training" / "generator-regularized-0" / "scores" / "64.safetensors"
    ours, expected = load_file(place / "scores" / "64.safetensors"), load_file(theirs)
    assert torch.equal(ours["samples"], expected["samples"])


# The verbs that use what a run has trained -------------------------------------------------------


def test_sample_writes_grid_files_and_a_record(whole, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["count=6", "sampler=euler", "sampler.steps=2", "labels=[circle,1]", "seed=3"]
    assert main(["sample", str(whole), *words, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    files = sorted(p.name for p in (out / "images").iterdir())
    assert files == [f"{n:06}.png" for n in range(6)]
    assert Image.open(out / "images" / files[0]).size == (16, 16)
    record = json.loads((out / "samples.json").read_text())
    classes = Run.load(whole).config.data.build("train", whole).classes
    assert [i["class"] for i in record["images"]] == [classes.index("circle"), 1] * 3
    later = tmp_path / "later"
    more = ["count=2", "first=4", *words[1:], "batch_size=1", "latents=true"]
    assert main(["sample", str(whole), *more, "--out", str(later)]) == 0
    assert not (out / "latents.safetensors").exists()
    place = whole / "training" / "generator-regularized-0" / "generator"
    images = LatentGenerator.load(place).decode(load_file(later / "latents.safetensors")["latents"])
    for image, name in zip(images, files[4:], strict=True):
        saved = torch.tensor(list(Image.open(later / "images" / name).tobytes()))
        expected = image.expand(3, 16, 16).permute(1, 2, 0).mul(255).round().flatten()
        assert (saved - expected).abs().max() <= 1
    for name in files[4:]:
        pixels = [Image.open(f / "images" / name).tobytes() for f in (out, later)]
        assert max(abs(a - b) for a, b in zip(*pixels, strict=True)) <= 1


def test_samples_are_made_again_only_of_another_generator(whole, tmp_path):
    place, out = tmp_path / "generator", tmp_path / "out"
    shutil.copytree(whole / "training" / "generator-baseline-0" / "generator", place)
    words = ["sample", str(place), "count=3", "sampler.steps=1", "batch_size=2", "--out", str(out)]
    model = whole / "training" / "baseline" / "model"
    assert main([*words, f"autoencoder={model}"]) == 0
    page = out / "samples.png"
    page.unlink()
    assert main([*words, f"autoencoder={model}"]) == 0 and not page.exists()
    loaded = LatentGenerator.load(place, autoencoder=model)
    with torch.no_grad():
        next(iter(loaded.backbone.parameters())).add_(0.1)
    loaded.save(place)
    assert main([*words, f"autoencoder={model}"]) == 0 and page.is_file()
    assert len(list((out / "images").iterdir())) == 3


def test_a_generator_alone_walks_with_the_autoencoder_it_is_given(whole, tmp_path, capsys):
    place = tmp_path / "generator"
    shutil.copytree(whole / "training" / "generator-baseline-0" / "generator", place)
    record = json.loads((place / "generator.json").read_text())
    (place / "generator.json").write_text(json.dumps(record | {"autoencoder": "gone"}))
    words = ["interpolate", str(place), "pairs=1", "steps=2", "sampler.steps=1"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "is not at gone: give the folder" in capsys.readouterr().err
    model = whole / "training" / "baseline" / "model"
    words += [f"autoencoder.source={model}", "--out", str(tmp_path / "b")]
    assert main(words) == 0


def test_export_of_a_run_has_its_measurements(whole, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["export", str(whole), "--model", "generator-baseline", "--out", str(out)]
    assert main(words) == 0
    text = (out / "README.md").read_text()
    assert f"# {whole.name}-generator-baseline\n" in text and "| arm | baseline |" in text
    report = load_report(whole)
    table = text.split("## Measurements")[1]
    rows = {label(m) for ms in report.measurements.values() for m in ms}
    assert rows and all(f"| {row} |" in table for row in rows)
    assert all(f" {arm} |" in table for arm in report.measurements)
    kept = LatentGenerator.load(out)
    theirs = whole / "training" / "generator-baseline-0" / "generator"
    assert kept.info.pairing == LatentGenerator.load(theirs).info.pairing
    assert Path(kept.info.autoencoder) == out / "vae"


def test_a_run_without_generators_exports_its_autoencoder(early, tmp_path, capsys):
    assert main(["export", str(early), "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "diffusion_pytorch_model.safetensors").is_file()
    assert main(["export", str(early), "--fresh", "--out", str(early.parent)]) == 2
    assert "holds what is exported" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["sample", "interpolate", "measure"])
def test_a_stage_of_what_is_no_run_is_refused(verb, tmp_path, capsys):
    assert main([verb, str(tmp_path), "--model", "baseline"]) == 2
    assert "--model baseline names a stage of a run" in capsys.readouterr().err


def test_a_run_that_was_moved_is_sampled_where_it_is(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "moved", "count=1", "sampler.steps=1", "--out", "out"]) == 0
    record = json.loads(Path("out/samples.json").read_text())
    place = "moved/training/generator-regularized-0/generator"
    assert record["settings"]["generator"] == place
    assert record["generator"]["autoencoder"] == "moved/training/regularized/model"
    assert record["generator"]["training"]["samples"] == 64


def test_sample_names_what_is_missing(early, whole, tmp_path, capsys):
    assert main(["sample", str(early)]) == 2
    assert "no trained generator yet: the same latentsmith run" in capsys.readouterr().err
    assert main(["sample", str(whole), "--model", "generator-base"]) == 2
    assert "Did you mean 'generator-baseline'" in capsys.readouterr().err
    out = str(tmp_path / "x")
    assert main(["sample", str(whole), "labels=[cube]", "--out", out]) == 2
    assert "labels: no class 'cube'" in capsys.readouterr().err


def test_another_arms_autoencoder_is_refused(whole, tmp_path, capsys):
    other = whole / "training" / "baseline" / "model"
    words = [f"autoencoder={other}", "--out", str(tmp_path / "x")]
    assert main(["sample", str(whole), "--model", "generator-regularized", *words]) == 2
    assert "is not the autoencoder of" in capsys.readouterr().err
    generator = whole / "training" / "generator-regularized-0" / "generator"
    with pytest.raises(UserError, match="is not the autoencoder of"):
        LatentGenerator.load(generator, autoencoder=other)


@pytest.mark.parametrize("model", ["regularized", "generator-baseline"])
def test_interpolate_between_images_and_between_noises(whole, tmp_path, model):
    out = tmp_path / "out"
    words = ["pairs=2", "steps=3", "batch_size=4", "--model", model, "--out", str(out)]
    assert main(["interpolate", str(whole), *words]) == 0
    names = sorted(p.name for p in (out / "images").iterdir())
    assert names == [f"{p:03}-{s:03}.png" for p in range(2) for s in range(3)]
    assert Image.open(out / "paths.png").size == (3 * 18 + 2, 2 * 18 + 2)
    record = json.loads((out / "paths.json").read_text())
    assert record["path"] == ("lerp" if model == "regularized" else "slerp")


def test_the_ends_of_a_path_are_the_reconstructions(whole, tmp_path):
    model = whole / "training" / "baseline" / "model"
    picture = tmp_path / "a.png"
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (16, 16, 3), generator=rng, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(picture)
    black = tmp_path / "b.png"
    Image.new("RGB", (16, 16)).save(black)
    words = [f"images=[{picture},{black}]", "transform.resolution=16", "steps=2"]
    assert main(["interpolate", str(model), *words, "--out", str(tmp_path / "out")]) == 0
    autoencoder = KLAutoencoderConfig(source=str(model)).build().eval()
    with torch.no_grad():
        z = autoencoder.encode(pixels.permute(2, 0, 1)[None] / 255).mode()
        expected = autoencoder.decode(z).clamp(0, 1)[0].mul(255).round().byte()
    found = Image.open(tmp_path / "out" / "images" / "000-000.png").convert("RGB")
    got = torch.tensor(list(found.tobytes()), dtype=torch.int16).view(16, 16, 3).permute(2, 0, 1)
    assert (got - expected.short()).abs().max() <= 1


def test_a_sweep_over_losses_and_seeds_makes_one_table(tmp_path, capsys):
    out = tmp_path / "sweep"
    words = ["scale=smoke", "evaluate.card.resamples=5", "loss=none,pearson", "seed=0,1"]
    short = [f"{part}.samples=32" for part in ("pretrain", "finetune", "generation.train")]
    words += [*short, "generation.score_at=[]", "generation.sampler.steps=2"]
    assert main(["sweep", "mmreg", *words, "--out", str(out)]) == 0
    table = (out / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| loss=")]
    assert sum(line.startswith("| loss=none | 2 ") for line in rows) == 1
    assert any("not told apart" in r or "better" in r or "worse" in r for r in rows)
    assert (
        "Fréchet distance of generated images, at_32, pixel_pca" in table
        and "4 of 4 runs finished" in capsys.readouterr().out
    )
    # baseline and regularized of loss=none are one training, also across the sweep
    places = {
        Run.load(run).summary(f"generator-{arm}")["generators"][0]["training"]
        for run in out.glob("*loss=none,seed=0")
        for arm in ARMS
    }
    assert len(places) == 1


def test_generators_aligned_with_a_teacher(tmp_path):
    """REPA as a switch: tokens from a store, the head trained and saved beside the network."""
    folder = tmp_path / "aligned"
    source = tiny_dinov2(tmp_path / "dino")
    words = [
        "generation.teacher=dinov2", f"generation.teacher.source={source}",
        "generation.teacher.resolution=28", "generation.score_at=[]",
        "generation.diffusion.alignment={weight: 0.5, blocks: [1], hidden: 8}",
    ]  # fmt: skip
    for stage in ("references", "pretrain", "baseline", "generator-baseline"):
        assert main(["train", f"mmreg.{stage}", *ARGS[2:], *words, "--out", str(folder)]) in (
            0,
            None,
        )
    place = folder / "training" / "generator-baseline-0"
    records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    aligned = [r["denoiser/alignment"] for r in records if r["kind"] == "train"]
    assert len(aligned) == 4 and all(0 < value < 2 for value in aligned)
    exported = load_file(place / "generator" / "backbone" / "diffusion_pytorch_model.safetensors")
    assert not [name for name in exported if "aligner" in name or "head" in name]
    aligner = LatentGenerator.load(place / "generator").aligner
    assert aligner is not None and aligner.config.blocks == [1]
    averaged = load_file(max((place / "checkpoints").iterdir()) / "ema.safetensors")
    for name, value in aligner.state_dict().items():
        assert torch.equal(value, averaged[f"aligner.{name}"]), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generation.teacher=dinov2"], "REPA needs both"),
        (["generation.diffusion.alignment={weight: 0.5, blocks: [1]}"], "no teacher is set"),
        (["generation.score_at=[64,32]"], "must rise"),
        (["generation.score_at=[65]"], "after the end of training"),
    ],
)
def test_settings_that_cannot_work_together(words, said, capsys):
    assert main([*ARGS, *words, "--dry-run"]) == 2
    assert said in capsys.readouterr().err
