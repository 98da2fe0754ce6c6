"""``interpolate``: paths between images, noises and prompts of runs and of what was saved."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers.explored import field_run, image_run
from helpers.tiny_text_generator import tiny_text_generator
from latentsmith.cli import main
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.data.decode import decode_image

FEW = ["sampler.steps=2", "steps=3"]
A, B, C = "a red cat", "the small green house of a large dog", "a dog"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished runs of mmreg (generators of classes and of texts), psvae, field and textlatent."""
    root = tmp_path_factory.mktemp("made")
    image_run(root, name="mmreg")
    field_run(root)
    with Run.open(root / "texts", compose("textlatent", ["scale=smoke"]), ["scale=smoke"]) as run:
        (run.path / "model").mkdir()
        (run.path / "model/text_latent.json").write_text("{}")
        run.mark_done("base", {"model": run.path / "model"})
        run.finish()
    with Run.open(root / "psvae", compose("psvae", ["scale=smoke"]), ["scale=smoke"]) as run:
        place = run.path / "training"
        tiny_text_generator(place).save(place / "dit")
        run.mark_done("svae", {"model": place / "autoencoder"})
        run.mark_done("pixel", {"model": place / "autoencoder"})
        run.mark_done("dit", {"generators": [{"generator": place / "dit"}]})
        run.finish()
    return root


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A working folder in which runs/ are those."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))
    Path("runs").symlink_to(made)
    return tmp_path


def prompts(*texts):
    return [word for text in texts for word in ("--prompt", text)]


def walked(*words, out="out"):
    """The images of a command, by path and step, and its record."""
    assert main(["interpolate", *words, *FEW, "--out", out]) == 0
    record = json.loads(Path(out, "paths.json").read_text())
    count = len(record["ends"])
    images = [[pixels(f"{out}/images/{p:03}-{s:03}.png") for s in range(3)] for p in range(count)]
    return images, record


def sampled(*words):
    """Images of the verb sample, by number."""
    assert main(["sample", *words, FEW[0], "--out", "sampled", "--fresh"]) == 0
    return {int(file.stem): pixels(file) for file in Path("sampled/images").iterdir()}


def pixels(file):
    return decode_image(Path(file), "rgb", str(file))


def refused(capsys, *words):
    assert main(["interpolate", *words, *FEW, "--out", "out"]) == 2
    assert not Path("out").exists()
    return capsys.readouterr().err.partition("latentsmith: ")[2].strip()


def test_one_prompt_is_shown_along_paths_between_noises(here):
    words = ["runs/psvae", "--model", "dit", *prompts(A)]
    images, record = walked(*words, "pairs=2", "seed=5")
    assert record["path"] == "slerp"
    assert record["ends"] == ["noise 0 to 1 of seed 5", "noise 2 to 3 of seed 5"]
    assert Image.open("out/paths.png").size == (3 * 18 + 2, 2 * 18 + 2)
    own = sampled(*words, "count=4", "seed=5")
    for path in (0, 1):
        assert torch.equal(images[path][0], own[2 * path])
        assert torch.equal(images[path][2], own[2 * path + 1])
        assert not torch.equal(images[path][1], images[path][0])


def test_paths_between_prompts_start_and_end_as_samples_of_them(here):
    sde = ["sampler=sde", "seed=3"]
    images, record = walked("runs/psvae", *prompts(A, B, B, C), *sde)
    assert record["path"] == "lerp" and record["ends"] == [f"{A} to {B}", f"{B} to {C}"]
    for n, text in enumerate((A, B, B, C)):
        own = sampled("runs/psvae", *prompts(text), *sde, "count=2")
        assert torch.equal(images[n // 2][2 * (n % 2)], own[n // 2])
    assert not torch.equal(images[0][1], images[0][0])
    assert not torch.equal(images[0][2], images[1][0]), "each path has a noise of its own"


def test_neither_batch_size_nor_companions_matter_and_prompts_may_be_settings(here):
    both, _ = walked("runs/psvae", *prompts(A, B, B, C), "guidance=cfg", "batch_size=6")
    words = ["prompts=[a red cat,the small green house of a large dog]", "guidance=cfg"]
    again, record = walked("runs/psvae", *words, "batch_size=2", out="again")
    assert record["settings"]["prompts"] == [A, B]
    assert torch.equal(torch.stack(both[0]), torch.stack(again[0]))
    once_more, _ = walked("runs/psvae", *words, "batch_size=2", out="more")
    assert torch.equal(torch.stack(again[0]), torch.stack(once_more[0]))


def test_classes_of_a_run_and_a_saved_generator(here):
    folder = "runs/mmreg/training/baseline/generator"
    words = ["labels=[star,ring]", "pairs=2"]
    images, _ = walked("runs/mmreg", "--model", "generator-baseline", *words, "guidance=none")
    again, _ = walked(folder, *words, "sampler=heun", out="again")
    assert torch.equal(images[0][0], sampled(folder, "labels=[star]", "count=1")[0])
    assert len(images) == len(again) == 2
    by_text, _ = walked("runs/mmreg", *prompts(A), "pairs=1", out="texts")
    assert len(by_text) == 1, "the last generator reads texts"


def test_the_same_again_is_not_made_again_but_another_image_or_generator_is(here):
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 20), color).save(name)
    shutil.copytree("runs/psvae/training", "training")
    between = ["training/autoencoder", "images=[a.png,b.png]", "transform.resolution=16"]
    for words, out in ((between, "files"), (["training/dit", *prompts(A, B)], "prompts")):
        first, _ = walked(*words, out=out)
        file = Path(out, "images/000-000.png")
        made_at = file.stat().st_mtime_ns
        walked(*words, out=out)
        assert file.stat().st_mtime_ns == made_at
        Image.new("RGB", (20, 20), "green").save("a.png")
        trained_again("training/dit")
        again, _ = walked(*words, out=out)
        assert not torch.equal(again[0][1], first[0][1])


def trained_again(folder):
    """Other weights at a generator's place."""
    [file] = Path(folder, "backbone").glob("*.safetensors")
    save_file({name: w + 0.1 for name, w in load_file(file).items()}, file)


def test_without_a_generator_in_mind_it_is_between_images(here, capsys):
    assert main(["interpolate", "runs/mmreg", "pairs=1", "steps=2", "--out", "out"]) == 0
    err = capsys.readouterr().err
    told = "between images; --model generator-baseline or generator-regularized: between noises"
    assert told in err
    record = json.loads(Path("out/paths.json").read_text())
    assert record["settings"]["generator"] is None and "shapes" in record["ends"][0]
    assert main(["interpolate", "runs/field", "pairs=1", "steps=2", "--out", "fields"]) == 0
    assert "--model" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "runs/mmreg --model generator-baseline --prompt cat",
            "this generator was trained on classes and not on texts (labels: circle, ring, "
            "half-circle, triangle, square, hexagon, star, cross): give no prompts",
        ),
        (
            "runs/psvae --model dit",
            "this generator makes images from texts, and got none: give prompts "
            "(condition=generator.prompt([…]); on the command line, --prompt TEXT)",
        ),
        ("runs/psvae labels=[a]", "labels=['a']: this generator was trained without classes"),
        (
            "runs/psvae --prompt a --prompt b --prompt c",
            "problem in the settings of interpolate:\n"
            "  3 prompts make no pairs: give an even number (paths from the first to the second, "
            "the third to the fourth …), or one (paths between noises that show it)",
        ),
        (
            "runs/psvae --prompt a --prompt b path=slerp",
            "problem in the settings of interpolate:\n"
            "  path=slerp is for latents and noises: paths between prompts are straight, leave "
            "path out",
        ),
        (
            "runs/psvae --prompt a labels=[b]",
            "problem in the settings of interpolate:\n"
            "  prompts and labels are both given: say what to show in one way",
        ),
        (
            "runs/psvae --model caches",
            "runs/psvae has no generator and no autoencoder of stage 'caches'. Generators: dit. "
            "Autoencoders: svae, pixel",
        ),
        (
            "runs/field --model latent",
            "runs/field has no generator and no autoencoder of stage 'latent'. Generators: none "
            "yet. Autoencoders: autoencoder",
        ),
        (
            "runs/psvae --model pixel --prompt a",
            "runs/psvae has no generator of stage 'pixel'. Known: dit.",
        ),
        (
            "runs/psvae/training/autoencoder --prompt a",
            "problem in the settings of interpolate:\n"
            "  prompts are for a generator to show, and there is only an autoencoder: give "
            "generator=FOLDER",
        ),
        (
            "runs/texts",
            "runs/texts holds a model of texts and latents: there are no images to walk between. "
            "latentsmith encode and invert go from texts to latents and back",
        ),
    ],
)
def test_mistakes(here, capsys, words, message):
    assert refused(capsys, *words.split()) == message


def test_help_says_what_prompts_do(capsys):
    with pytest.raises(SystemExit):
        main(["interpolate", "--help"])
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "with prompts or labels, by its last generator" in told and "--prompt TEXT" in told
