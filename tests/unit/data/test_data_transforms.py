"""Transforms against PIL, and the properties of random crops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from latentsmith.data.transforms import (
    TransformConfig,
    center_box,
    crop,
    pad,
    random_box,
    resize,
    to_channels,
)


def noise(height, width, channels=3, seed=0):
    """Smooth noise plus a zone plate: both flat parts and fine detail."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    plate = 0.5 + 0.5 * torch.cos((x**2 + y**2) * math.pi / max(height, width) / 2)
    shade = torch.rand(channels, 1, 1, generator=torch.Generator().manual_seed(seed))
    return (plate * (0.3 + 0.7 * shade)).mul(255).round().to(torch.uint8)


def pil_resize(image, size):
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    resized = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("source", "target"),
    [((128, 128), (32, 32)), ((100, 77), (31, 53)), ((24, 40), (64, 64)), ((64, 64), (64, 20))],
)
def test_resize_equals_pil_bicubic(source, target):
    image = noise(*source)
    ours, theirs = resize(image, target), pil_resize(image, target)
    assert ours.dtype == torch.uint8
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.25


def test_resize_of_floats_equals_pil_up_to_rounding():
    image = noise(96, 128)
    ours = resize(image.float() / 255, (32, 48)) * 255
    assert (ours - pil_resize(image, (32, 48)).float()).abs().max() < 1.01


def test_resize_clamps_overshoot():
    step = torch.zeros(1, 16, 16)
    step[..., 8:] = 1
    out = resize(step, (40, 40))
    assert out.min() == 0 and out.max() == 1


def test_without_antialiasing_this_test_would_fail():
    """The tolerance above tells antialiased from not."""
    image = noise(128, 128)
    raw = torch.nn.functional.interpolate(
        image[None].float(), size=(32, 32), mode="bicubic", antialias=False
    )
    assert (raw[0] - pil_resize(image, (32, 32)).float()).abs().mean() > 5


def test_grey_equals_pil():
    image = noise(20, 30)
    image[0] = 255 - image[0]
    theirs = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
    torch.testing.assert_close(to_channels(image, 1)[0], torch.from_numpy(theirs.copy()))


def test_grey_is_repeated():
    grey = noise(4, 4, channels=1)
    assert all(torch.equal(channel, grey[0]) for channel in to_channels(grey, 3))


def test_other_channel_counts_are_refused():
    with pytest.raises(ValueError, match="4 channels"):
        to_channels(torch.zeros(4, 2, 2, dtype=torch.uint8), 3)


def test_center_box_and_pad():
    assert center_box(10, 7) == (1, 0, 7, 7)
    assert center_box(6, 9) == (0, 1, 6, 6)
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
    assert pad(image, 2).shape == (1, 7, 8)
    torch.testing.assert_close(crop(pad(image, 2), (2, 2, 3, 4)), image)


@pytest.mark.parametrize("size", [(32, 32), (20, 60), (60, 20), (1, 5)])
def test_random_boxes_stay_inside_with_the_asked_area(size):
    height, width = size
    draws = torch.rand(500, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in draws:
        top, left, h, w = random_box(height, width, (0.3, 0.9), (0.5, 2.0), row)
        assert 0 <= top <= height - h and 0 <= left <= width - w and h >= 1 and w >= 1
        if min(size) > 10:
            assert 0.2 < h * w / (height * width) <= 1.0


def test_random_boxes_reach_every_corner_and_the_whole_range():
    draws = torch.rand(3000, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    boxes = [random_box(64, 64, (0.25, 1.0), (0.75, 4 / 3), row) for row in draws]
    areas = torch.tensor([h * w / 64**2 for _, _, h, w in boxes])
    ratios = torch.tensor([w / h for _, _, h, w in boxes])
    assert areas.min() < 0.27 and areas.max() > 0.95
    assert ratios.min() < 0.78 and ratios.max() > 1.28
    assert abs(ratios.log().mean()) < 0.02  # neither tall nor wide is favoured
    assert any(t == 0 and h < 64 for t, _, h, _ in boxes)
    assert any(t + h == 64 and h < 64 for t, _, h, _ in boxes)


def test_impossible_ratio_falls_back_to_the_central_crop():
    draws = torch.full((40,), 0.999, dtype=torch.float64)
    assert random_box(10, 100, (1.0, 1.0), (1.0, 1.0), draws) == (0, 45, 10, 10)
    assert random_box(100, 10, (1.0, 1.0), (1.0, 1.0), draws) == (45, 0, 10, 10)


@pytest.mark.parametrize("crop_kind", ["center", "none", "random"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("have", [1, 3])
def test_output_shape_range_and_batch_equals_single(crop_kind, channels, have):
    transform = TransformConfig(
        resolution=16, crop=crop_kind, channels=channels, flip=crop_kind == "random"
    ).build()
    images = torch.stack([noise(24, 36, have, seed) for seed in range(3)])
    draws = torch.rand(3, transform.draws, dtype=torch.float64)
    batch = transform.batch(images, draws)
    assert batch.shape == (3, channels, 16, 16) and batch.dtype == torch.float32
    assert batch.is_contiguous() and batch.min() >= 0 and batch.max() <= 1
    for k in range(3):
        single = transform.batch(images[k : k + 1], draws[k : k + 1])[0]
        torch.testing.assert_close(batch[k], single, rtol=0, atol=0)


def test_white_stays_exactly_one():
    white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    assert (TransformConfig(resolution=5).build()(white) == 1).all()


def test_call_draws_from_the_generator_only():
    image = noise(40, 40)
    transform = TransformConfig(resolution=16, crop="random", flip=True).build()
    first = transform(image, torch.Generator().manual_seed(7))
    torch.rand(5)
    again = transform(image, torch.Generator().manual_seed(7))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, transform(image, torch.Generator().manual_seed(8)))


def test_flip_mirrors_about_half():
    image = noise(16, 16)
    transform = TransformConfig(resolution=16, flip=True).build()
    draws = torch.linspace(0, 0.999, 10, dtype=torch.float64)[:, None]
    out = transform.batch(image.expand(10, -1, -1, -1), draws)
    plain = image.float() / 255
    assert all(torch.equal(o, plain.flip(-1)) for o in out[:5])
    assert all(torch.equal(o, plain) for o in out[5:])


def test_deterministic_and_fingerprint():
    plain = TransformConfig(resolution=16)
    assert plain.build().deterministic and plain.build().draws == 0
    random = TransformConfig(resolution=16, crop="random", flip=True)
    assert not random.build().deterministic
    assert not TransformConfig(resolution=16, flip=True).build().deterministic
    assert random.deterministic().build().fingerprint() == plain.build().fingerprint()
    assert TransformConfig(resolution=16, crop="none").deterministic().crop == "none"
    # what does nothing must not invalidate a cache, what does something must
    unused = TransformConfig(resolution=16, scale=(0.1, 1.0))
    assert unused.build().fingerprint() == plain.build().fingerprint()
    other = TransformConfig(resolution=16, crop="random", flip=True, scale=(0.1, 1.0))
    assert other.build().fingerprint() != random.build().fingerprint()
    with pytest.raises(ValueError, match="needs draws"):
        random.build().batch(noise(16, 16)[None])


@pytest.mark.parametrize(
    "bad", [{"scale": (0.9, 0.5)}, {"scale": (0, 1)}, {"scale": (0.5, 1.5)}, {"ratio": (2, 1)}]
)
def test_bad_ranges_name_the_rule(bad):
    with pytest.raises(ValueError, match="it needs 0 < low <= high"):
        TransformConfig(resolution=8, **bad)
