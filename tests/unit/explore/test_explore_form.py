"""Controls and pictures: what comes from a browser is checked before anything is computed."""

import base64
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.explored import half, picture
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.explore.form import Choice, Mask, Number, Picked, Sample, Text, checked
from latentsmith.explore.pictures import data_url, difference, mask_of, sheet, uploaded

NUMBER = Number(name="steps", label="Steps", least=1, most=10, value=3)
SHARE = Number(name="share", label="Share", least=0, most=1, step=0.1, value=0.5)
SAMPLE = Sample(name="of", label="Of", count=5)


def test_values_are_what_a_tab_takes():
    controls = [NUMBER, SHARE, Text(name="say", label="Say"), SAMPLE,
                Choice(name="path", label="Path", options=["lerp"], value="lerp")]  # fmt: skip
    values = {"steps": 4, "share": 0.25, "say": " hello ", "of": {"number": 2}, "path": "lerp"}
    found = checked(controls, values)
    assert found == {
        "steps": 4, "share": 0.25, "say": "hello", "of": Picked(number=2), "path": "lerp",
    }  # fmt: skip
    assert type(found["steps"]) is int


@pytest.mark.parametrize(
    ("control", "value", "why"),
    [
        (NUMBER, 11, "Steps: 11 is not between 1 and 10"),
        (NUMBER, float("nan"), "Steps: nan is not between"),
        (NUMBER, "3", "Steps: a number is needed"),
        (NUMBER, True, "Steps: a number is needed"),
        (NUMBER, None, "Steps: a number is needed"),
        (Text(name="steps", label="Say", most=3), "long", "at most 3 letters"),
        (Text(name="steps", label="Say"), 3, "a text of at most"),
        (Choice(name="steps", label="Path", options=["lerp"], value="lerp"), "zigzag", "none of"),
        (SAMPLE, {"number": 5}, "Of: pick one, or upload an image"),
        (SAMPLE, {"number": -1}, "Of: pick one"),
        (SAMPLE, 3, "Of: pick one"),
        (Sample(name="s", label="Of", count=5, uploads=False), {"upload": "data:"}, "Of: pick one"),
        (Mask(name="steps", label="Mask", over="of"), None, "Mask: paint over"),
        (Mask(name="steps", label="Mask", over="of"), "/etc/passwd", "Mask: paint over"),
    ],
)
def test_a_wrong_value_is_refused_by_name(control, value, why):
    with pytest.raises(UserError, match=why):
        checked([control], {control.name: value})


def test_a_value_of_no_control_is_refused():
    with pytest.raises(UserError, match="no control 'device'"):
        checked([NUMBER], {"steps": 1, "device": "cuda"})
    with pytest.raises(UserError, match="a number is needed"):
        checked([NUMBER], ["steps"])


def test_a_picture_goes_there_and_back():
    image = torch.randint(0, 256, (3, 8, 8)) / 255
    back = uploaded(data_url(image), TransformConfig(resolution=8))
    torch.testing.assert_close(back, image)
    gray = uploaded(data_url(image), TransformConfig(resolution=4, channels=1))
    assert gray.shape == (1, 4, 4)


def bomb() -> str:
    """A PNG of a few hundred bytes that claims a gigapixel."""

    def part(kind: bytes, body: bytes) -> bytes:
        code = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + code

    size = (40_000).to_bytes(4, "big") * 2
    head = part(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    body = (
        b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(body).decode()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("data:image/png;base64,AAAA", "the image: cannot identify"),
        ("data:image/png;base64,!!!", "damaged on its way"),
        ("https://example.org/a.png", "not a picture from this page"),
        ("file:///etc/passwd", "not a picture from this page"),
        ("", "not a picture from this page"),
        (bomb(), "more than the .* pixels that are decoded"),
    ],
)
def test_what_is_no_picture_is_refused(url, why):
    with pytest.raises(UserError, match=why):
        uploaded(url, TransformConfig(resolution=8))


def test_a_mask_is_what_is_white():
    mask = mask_of(picture(half(32)), 8)
    assert mask.shape == (1, 1, 8, 8)
    assert mask[0, 0, :4].all() and not mask[0, 0, 4:].any()
    with pytest.raises(UserError, match="nothing is painted"):
        mask_of(picture(torch.zeros(1, 1, 4, 4)), 8)


def test_the_sheet_has_each_thumbnail_where_the_page_looks_for_it():
    thumbs = torch.arange(5).view(5, 1, 1, 1).expand(5, 1, 4, 4) / 8
    data, rows = sheet(thumbs, 3)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("L"))).int()
    assert rows == 2
    assert pixels[0, ::4].tolist() == [0, 32, 64] and pixels[4, ::4].tolist() == [96, 128, 255]


def test_the_difference_is_shown_larger_than_it_is():
    a, b = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.4, 0.0]]])
    torch.testing.assert_close(difference(a, b), torch.tensor([[[0.4, 1.0]]]))
