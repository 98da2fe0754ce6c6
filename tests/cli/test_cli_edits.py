"""``sample --prompt``, ``variation``, ``inpaint``, ``edit``: what they write, and mistakes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.tiny_text_generator import tiny_text_generator
from latentsmith.cli import main
from latentsmith.cli._texts import quoted
from latentsmith.config.compose import compose
from latentsmith.data.decode import decode_image
from latentsmith.data.transforms import TransformConfig

FEW = ["sampler.steps=2", "--out", "out"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a generator that reads texts, one with classes, one gray."""
    root = tmp_path_factory.mktemp("made")
    tiny_text_generator(root / "text").save(root / "reader")
    tiny_text_generator(root / "class", classes=["a", "b", "c"]).save(root / "classes")
    tiny_text_generator(root / "grey", classes=["a"], channels=1).save(root / "gray")
    return root


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A working folder with image files: 60 x 40, 16 x 16 gray, masks of both shapes."""
    monkeypatch.chdir(tmp_path)
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8).numpy()  # noqa: E731
    Path("photos").mkdir()
    Image.fromarray(draw(40, 60, 3)).save("photos/wide.jpg")
    Image.fromarray(draw(16, 16)).save("photos/gray.png")
    Path("photos/notes.txt").write_text("no image")
    for name, size in {"wide": (30, 20), "square": (8, 8), "none": (8, 8)}.items():
        mask = Image.new("L", size, 0)
        if name != "none":
            mask.paste(255, (size[0] * 2 // 3, 0, *size))
        mask.save(f"{name}.png")
    return tmp_path


def record(name="edits"):
    return json.loads(Path(f"out/{name}.json").read_text())


def pixels(file):
    return decode_image(Path(file), "rgb", str(file))


def refused(capsys, *words):
    assert main(list(words)) == 2
    return capsys.readouterr().err.partition("latentsmith: ")[2].strip()


# Prompts ------------------------------------------------------------------------------------------


def test_prompts_are_taken_in_turn_and_recorded(made, here):
    Path("more.txt").write_text("a dog\n\n  the house \n", encoding="utf-8")
    words = ["sample", str(made / "reader"), "--prompt", 'a "red" cat, {big}', *FEW]
    assert main([*words, "--prompts", "more.txt", "count=10", "first=1", "batch_size=3"]) == 0
    texts = ['a "red" cat, {big}', "a dog", "the house"]
    images = record("samples")["images"]
    assert [i["prompt"] for i in images] == [texts[n % 3] for n in range(1, 11)]
    assert [i["class"] for i in images] == [None] * 10
    assert images[0]["file"] == "000001.png"
    # three columns: each shows one prompt
    assert Image.open("out/samples.png").size == (3 * 18 + 2, 4 * 18 + 2)
    before = pixels("out/images/000005.png")
    assert main([*words, "--prompts", "more.txt", "count=1", "first=5", "--fresh"]) == 0
    assert (pixels("out/images/000005.png").int() - before.int()).abs().max() <= 1


def test_classes_are_recorded_as_before(made, here):
    assert main(["sample", str(made / "classes"), "count=3", "labels=[b,0]", *FEW]) == 0
    images = record("samples")["images"]
    assert [(i["class"], i["prompt"]) for i in images] == [(1, None), (0, None), (1, None)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "sample GEN/classes --prompt x",
            "this generator was trained on classes and not on texts (labels: a, b, c): give no "
            "prompts",
        ),
        (
            "sample GEN/classes --prompt x labels=[a]",
            "problem in the settings of sample:\n"
            "  prompts and labels are both given: say what to show in one way",
        ),
        ("sample GEN/reader --prompts empty.txt", "empty.txt is empty: write one text a line"),
        (
            "sample GEN/reader --prompts gone.txt",
            "cannot read texts from gone.txt: [Errno 2] No such file or directory: 'gone.txt'",
        ),
        (
            "sample GEN/reader count=2",
            "this generator makes images from texts, and got none: give prompts "
            "(condition=generator.prompt([…]); on the command line, --prompt TEXT)",
        ),
    ],
)
def test_mistakes_with_prompts(made, here, capsys, words, message):
    Path("empty.txt").write_text("\n  \n")
    assert refused(capsys, *words.replace("GEN", str(made)).split(), *FEW) == message


@pytest.mark.parametrize(
    "text",
    [
        *("plain", 'say "hi"', "a, b: [c] {d} = e", "a\\b", 'odd\\"q', "end\\", "it's", "日本 🙂"),
        *("${x} $y", "null", "3", "1.5", " lead", "photos/a.png", "no.5", "-a/b"),
    ],
)
def test_every_text_reaches_the_settings_as_it_is(text):
    words = ["generator=x", f"prompts=[{quoted(text)},{quoted('b')}]"]
    assert compose("sample", words).prompts == [text, "b"]


# Images in, images out ----------------------------------------------------------------------------


def test_variations_of_files_and_folders(made, here):
    words = ["variation", str(made / "classes"), "--image", "photos", "--image", "photos/wide.jpg"]
    words += ["--strength", "0.5", "count=2", "labels=[c,a]", "seed=4", *FEW]
    assert main(words) == 0
    found = record()
    sources = ["photos/gray.png", "photos/wide.jpg", "photos/wide.jpg"]
    assert [image["source"] for image in found["images"]] == sources
    assert found["images"][1]["results"] == [
        {"file": "001-00.png", "class": "c", "number": 0},
        {"file": "001-01.png", "class": "c", "number": 1},
        {"file": "001-02.png", "class": "a", "number": 0},
        {"file": "001-03.png", "class": "a", "number": 1},
    ]
    assert found["settings"]["strength"] == 0.5 and found["settings"]["task"] == "variation"
    assert len(list(Path("out/images").iterdir())) == 12
    assert Image.open("out/edits.png").size == (5 * 18 + 2, 3 * 18 + 2)
    for k in range(4):
        a, b = (pixels(f"out/images/{n:03}-{k:02}.png") for n in (1, 2))
        assert torch.equal(a, b), "its companions do not matter"
    assert not torch.equal(pixels("out/images/001-00.png"), pixels("out/images/001-01.png"))
    second = [pixels(f"out/images/001-0{k}.png") for k in (2, 3)]
    alone = [word for word in words if not word.startswith("labels")]
    assert main([*alone, "labels=[a]", "--fresh"]) == 0
    for k, image in enumerate(second):
        assert (pixels(f"out/images/001-0{k}.png").int() - image.int()).abs().max() <= 1
    # the source is cropped and resized as a run's images are
    seen = TransformConfig(resolution=16).build()(pixels("photos/wide.jpg"))
    assert torch.equal(pixels("out/sources/001.png"), (seen * 255).round().to(torch.uint8))


def test_the_whole_image_squeezed(made, here):
    words = ["variation", str(made / "classes"), "--image", "photos/wide.jpg", "crop=none", *FEW]
    assert main(words) == 0
    seen = TransformConfig(resolution=16, crop="none").build()(pixels("photos/wide.jpg"))
    assert torch.equal(pixels("out/sources/000.png"), (seen * 255).round().to(torch.uint8))


def test_a_gray_generator_takes_colour_files(made, here):
    assert main(["variation", str(made / "gray"), "--image", "photos", *FEW]) == 0
    red, green, _ = pixels("out/images/001-00.png")
    assert torch.equal(red, green)


def test_prompts_of_variations(made, here):
    words = ["variation", str(made / "reader"), "--image", "photos/wide.jpg", *FEW]
    assert main([*words, "--prompt", "a cat", "--prompt", "a dog", "guidance=cfg"]) == 0
    assert [r["prompt"] for r in record()["images"][0]["results"]] == ["a cat", "a dog"]
    assert not torch.equal(pixels("out/images/000-00.png"), pixels("out/images/000-01.png"))


def test_the_same_again_is_not_made_again_but_another_image_is(made, here):
    words = ["variation", str(made / "classes"), "--image", "photos/wide.jpg", *FEW]
    assert main(words) == 0
    file = Path("out/images/000-00.png")
    before, made_at = pixels(file), file.stat().st_mtime_ns
    assert main(words) == 0 and file.stat().st_mtime_ns == made_at
    Image.new("RGB", (60, 40), "black").save("photos/wide.jpg")
    assert main(words) == 0 and not torch.equal(pixels(file), before)


def test_inpainting_keeps_what_is_black_in_the_mask(made, here):
    words = ["inpaint", str(made / "classes"), "--image", "photos/wide.jpg", "--mask", "wide.png"]
    assert main([*words, "rounds=2", "count=2", *FEW]) == 0
    source = pixels("out/sources/000.png")
    for name in ("000-00", "000-01"):
        result = pixels(f"out/images/{name}.png")
        # a third of the width; a quarter of the square cut out of the middle
        assert torch.equal(result[..., :12], source[..., :12])
        assert not torch.equal(result[..., 12:], source[..., 12:])
    assert main([*words, "paste=false", *FEW, "--fresh"]) == 0
    assert not torch.equal(pixels("out/images/000-00.png")[..., :12], source[..., :12])


def test_edits_by_instruction(made, here):
    Path("more.txt").write_text("the green cat\n")
    words = ["edit", str(made / "reader"), "--image", "photos", "--instruction", "the red cat"]
    words += ["--instructions", "more.txt", "--text-guidance", "3", "--image-guidance", "1.2"]
    assert main([*words, *FEW]) == 0
    found = record()
    assert found["settings"]["guidance"]["kind"] == "edit"
    assert (found["settings"]["guidance"]["text"], found["settings"]["guidance"]["image"]) == (
        3,
        1.2,
    )
    told = [r["prompt"] for r in found["images"][0]["results"]]
    assert told == ["the red cat", "the green cat"]
    assert not torch.equal(pixels("out/images/000-00.png"), pixels("out/images/000-01.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "variation GEN/classes",
            "problem in the settings of edit:\n  no images: give --image FILE or FOLDER",
        ),
        (
            "variation GEN/classes --image photos --strength 1.4",
            "problem in the settings of edit:\n"
            "  strength: should be less than or equal to 1 (got 1.4)",
        ),
        (
            "variation GEN/classes --image photos --strength -0.1",
            "problem in the settings of edit:\n"
            "  strength: should be greater than or equal to 0 (got -0.1)",
        ),
        (
            "variation GEN/classes --image gone.png",
            "images: gone.png: no such file or folder",
        ),
        (
            "variation GEN/classes --image empty",
            "images: empty holds no images (.bmp, .jpeg, .jpg, .png, .webp)",
        ),
        (
            "variation GEN/classes --image photos/notes.txt",
            "images: photos/notes.txt: cannot identify image file",
        ),
        (
            "variation GEN/classes --image photos --prompt x",
            "this generator was trained on classes and not on texts (labels: a, b, c): give no "
            "prompts",
        ),
        (
            "variation GEN/reader --image photos labels=[a]",
            "labels=['a']: this generator was trained without classes",
        ),
        (
            "inpaint GEN/classes --image photos",
            "problem in the settings of edit:\n"
            "  no mask: give --mask FILE, white where the image is made anew",
        ),
        (
            "inpaint GEN/classes --image photos --mask gone.png",
            "mask: gone.png: no such file",
        ),
        (
            "inpaint GEN/classes --image photos --mask photos/notes.txt",
            "mask: photos/notes.txt: cannot identify image file",
        ),
        (
            "inpaint GEN/classes --image photos --mask wide.png",
            "mask: wide.png is 30 x 20 pixels and photos/gray.png is 16 x 16: give a mask of the "
            "image's shape, in any size",
        ),
        (
            "inpaint GEN/classes --image photos/gray.png --mask none.png",
            "the mask is empty: mark what is to be made anew (1, or white)",
        ),
        (
            "variation GEN/classes --image photos mask=wide.png",
            "problem in the settings of edit:\n"
            "  mask=wide.png: task=variation takes none, use task=inpaint",
        ),
        (
            "edit GEN/reader --image photos",
            "problem in the settings of edit:\n"
            "  no instruction: give --instruction TEXT or --instructions FILE",
        ),
        (
            "edit GEN/classes --image photos --instruction x",
            "this generator was not trained on edits: use variation or inpaint, which need no "
            "such training",
        ),
    ],
)
def test_mistakes(made, here, capsys, words, message):
    Path("empty").mkdir()
    said = refused(capsys, *words.replace("GEN", str(made)).split(), *FEW)
    assert said.startswith(message), said
    if not message.endswith("image file"):
        assert said == message
