"""Image files of every sort: those that should work do, the others are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.mistakes import everything, refused
from latentsmith.cli import main
from latentsmith.data import decode
from latentsmith.data.decode import decode_image

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
"""Every grey level once."""
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)


def inspect(folder: Path, *words: str) -> int:
    return main(["data", "inspect", "image_folder", f"folder={folder}", "--check", *words])


def seen(folder: Path, mode: decode.Mode = "rgb") -> torch.Tensor:
    file = sorted(folder.iterdir())[0]
    return decode_image(file, mode, file.name)


# What works -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_three_channels(place, picture, capsys, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    folder = picture("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png", image)
    assert inspect(folder) == 0
    assert "3 channel(s), 16 x 16" in capsys.readouterr().out
    assert seen(folder).shape == (3, 16, 16)


def test_a_palette_keeps_its_colours(picture):
    image = Image.fromarray(COLOURS).quantize(8)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(seen(picture("x.png", image)), expected)


def test_what_is_transparent_is_white(picture):
    image = Image.fromarray(np.zeros((4, 4, 4), np.uint8))
    assert seen(picture("x.png", image)).eq(255).all()


def test_sixteen_bits_are_scaled_and_not_cut_off(picture):
    deep = RAMP.astype(np.uint16) * 257
    found = seen(picture("x.png", Image.fromarray(deep)), "gray")
    assert torch.equal(found[0], torch.from_numpy(RAMP))


def test_the_first_frame_of_what_moves(picture):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for name in ("x.png", "x.webp"):
        options = {"lossless": True} if name == "x.webp" else {}
        folder = picture(name, frames[0], save_all=True, append_images=frames[1:], **options)
        assert seen(folder)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("tag", range(1, 9))
def test_cameras_may_be_held_in_any_way(picture, tag):
    """The tag says what was done to the picture; undone, it is upright again."""
    done = [
        None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270,
    ][tag - 1]  # fmt: skip
    upright = Image.fromarray(COLOURS[:12])
    exif = Image.Exif()
    exif[0x112] = tag
    turned = upright if done is None else upright.transpose(done)
    found = seen(picture("x.png", turned, exif=exif))
    assert torch.equal(found.permute(1, 2, 0), torch.from_numpy(COLOURS[:12]))


def test_images_of_one_pixel(place, picture, tmp_path, capsys):
    folder = picture("x.png", Image.new("RGB", (1, 1), "red"))
    assert inspect(folder, "--out", str(tmp_path / "grid.png")) == 0
    copy = ["data", "prepare", "image_folder", f"folder={folder}", "--out", str(tmp_path / "copy")]
    assert main([*copy, "--resolution", "8"]) == 0
    assert Image.open(next((tmp_path / "copy/train").glob("*.png"))).getpixel((7, 7)) == (255, 0, 0)


# What does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(RAMP.astype(np.int32)), "pixels of mode 'I' have no known range"),
        (Image.fromarray(RAMP.astype(np.float32)), "pixels of mode 'F' have no known range"),
    ],
    ids=["32-bit integers", "floats"],
)
def test_numbers_without_a_range(place, tmp_path, capsys, image, says):
    (tmp_path / "folder").mkdir()
    image.save(tmp_path / "folder/0.png", format="TIFF")
    told = variation(tmp_path / "folder/0.png", capsys)
    assert f"0.png: {says}; save it in 8 or 16 bits" in told


def test_an_image_of_four_hundred_million_pixels(place, tmp_path, capsys):
    """Under a megabyte on disk."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "wall.png")
    assert (tmp_path / "wall.png").stat().st_size < 1 << 20
    told = variation(tmp_path / "wall.png", capsys)
    assert "wall.png: it has more than the 178,956,970 pixels that are decoded" in told


def test_the_limit_holds_where_another_library_lifted_that_of_pil(monkeypatch, picture):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decode, "MOST_PIXELS", 99)
    with pytest.raises(decode.CorruptSample, match="it has more than the 99 pixels"):
        seen(picture("x.png", Image.new("RGB", (10, 10))))


def test_a_file_cut_short(place, tmp_path, capsys):
    whole = Path("photos/00.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    assert "half.png: image file is truncated" in variation(tmp_path / "half.png", capsys)


def test_what_is_no_image(place, tmp_path, capsys):
    (tmp_path / "text.png").write_text("hello")
    assert "text.png: cannot identify image file" in variation(tmp_path / "text.png", capsys)


def variation(file: Path, capsys) -> str:
    before = everything()
    told = refused(["variation", "by_class", "--image", str(file)], capsys)
    assert everything() == before
    return told


@pytest.fixture
def noise(tmp_path):
    """A folder of 24 files that only claim to be images."""
    folder = tmp_path / "noise"
    folder.mkdir()
    for k in range(24):
        (folder / f"{k:02}.png").write_text("hello")
    return folder


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data inspect image_folder folder=NOISE", "none of the 22 samples"),
        ("data inspect image_folder folder=NOISE --check", "none of the 22 samples"),
        ("data inspect image_folder folder=NOISE --out grid.png", "none of the 22 samples"),
        (
            "data prepare image_folder folder=NOISE --out copy --resolution 8",
            "none of the 22 images of image_folder:noise/train can be read, so there is nothing",
        ),
        (
            "cache vectors encoder=pixel_pca data=image_folder data.folder=NOISE --out store",
            "17 samples of image_folder:noise/train cannot be read; the budget",
        ),
        (
            "run mmreg scale=smoke data=image_folder data.folder=NOISE",
            "17 samples of image_folder:noise/train cannot be read; the budget",
        ),
    ],
)
def test_a_folder_in_which_no_file_is_an_image(place, noise, capsys, line, says):
    before = everything()
    told = refused(line.replace("NOISE", str(noise)).split(), capsys)
    assert says in told and "0.png: cannot identify image file" in told
    assert everything() == before


def test_a_copy_in_zips_says_what_it_left(place, noise, tmp_path, capsys):
    copy = str(tmp_path / "copy")
    words = ["data", "prepare", "image_folder", f"folder={noise}", "--resolution", "8"]
    told = refused([*words, "--format", "zip", "--out", copy], capsys)
    assert "above the share of 0.01 that --max-bad allows" in told
    assert "train.unreadable.csv lists them" in told
    assert (tmp_path / "copy/train.unreadable.csv").is_file()


def test_a_few_unreadable_files_are_named_and_passed_over(place, picture, tmp_path, capsys):
    folder = picture("x.png", Image.fromarray(COLOURS))
    (folder / "0-x.png").write_text("hello")
    assert inspect(folder) == 1, "a check that found something"
    assert "unreadable     1 of 22" in capsys.readouterr().out
    copy = ["data", "prepare", "image_folder", f"folder={folder}", "--out", str(tmp_path / "copy")]
    assert main([*copy, "--resolution", "8"]) == 0
    assert "0-x.png: cannot identify" in capsys.readouterr().out
