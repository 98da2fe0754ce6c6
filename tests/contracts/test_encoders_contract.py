"""What every registered encoder must hold to. A new encoder needs a line in `make`."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.tiny_models import (
    WEAK,
    random_inception,
    tiny_clip,
    tiny_dinov2,
    tiny_generator,
    tiny_siglip,
)
from latentsmith.encoders import ENCODERS, Encoder
from latentsmith.encoders.inception import Inception
from latentsmith.errors import UserError


def make(name: str, folder: Path, **settings) -> Encoder:
    """The encoder at its smallest, ready to use."""
    config = ENCODERS[name].config
    if name == "dinov2":
        return config(source=tiny_dinov2(folder), resolution=42, **settings).build()
    if name == "clip":
        return config(source=tiny_clip(folder), **settings).build()
    if name == "siglip":
        return config(source=tiny_siglip(folder), **settings).build()
    if name == "denoiser":
        return config(source=tiny_generator(folder), **settings).build()
    if name == "efficientnet_lite0":
        return config(**({"resolution": 64} | settings)).build()
    if name == "inception":
        return Inception(random_inception(), digest="0" * 64, config=config(**settings))
    if name == "pixel_pca":
        encoder = config(components=5, **settings).build()
        generator = torch.Generator().manual_seed(3)
        return encoder.fit([torch.rand(40, 3, 12, 12, generator=generator)])
    raise AssertionError(f"encoder {name!r} is new: say here how to make a tiny one")


ALL = pytest.mark.parametrize("name", ENCODERS.names())
WITH_TOKENS = pytest.mark.parametrize(
    "name", ["clip", "denoiser", "dinov2", "efficientnet_lite0", "siglip"]
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(1))


@ALL
def test_vectors_are_finite_float32_without_graph(name, tmp_path, images):
    encoder = make(name, tmp_path)
    before = images.clone()
    vectors = encoder.vector(images.requires_grad_())
    assert vectors.shape == (4, encoder.dim)
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()
    assert not vectors.requires_grad
    assert not encoder(images).pooled.requires_grad
    assert torch.equal(images, before), "the caller's images were changed"


@ALL
def test_the_config_says_whether_there_are_tokens(name, tmp_path, images):
    """So that a recipe can refuse a loss on tokens before anything is loaded."""
    encoder = make(name, tmp_path)
    assert ENCODERS[name].config.gives_tokens == (encoder.grid is not None)
    assert (encoder.grid is not None) == (encoder(images).tokens is not None)


@ALL
def test_on_a_gpu(name, tmp_path, images, gpu):
    encoder = make(name, tmp_path).to(gpu)
    out = encoder(images.to(gpu))
    assert out.pooled.device == gpu and encoder.vector(images.to(gpu)).device == gpu
    assert out.tokens is None or out.tokens.device == gpu


@ALL
def test_vectors_depend_on_the_image_and_on_nothing_else(name, tmp_path, images):
    encoder, images = make(name, tmp_path), images[:2]
    together = encoder.vector(images)
    assert torch.equal(together, encoder.vector(images))
    alone = torch.cat([encoder.vector(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


@ALL
def test_stays_frozen_and_in_evaluation_mode(name, tmp_path):
    encoder = make(name, tmp_path)
    holder = nn.ModuleDict({"reference": encoder}).train()
    assert holder.training
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


@ALL
def test_other_sizes_are_resized(name, tmp_path, images):
    encoder = make(name, tmp_path)
    assert encoder.vector(images[:, :, :, :30]).shape == (4, encoder.dim)


@ALL
def test_digest_and_fingerprint_are_stable_and_json(name, tmp_path):
    first, second = (make(name, tmp_path / part) for part in "ab")
    assert first.digest() == second.digest()
    assert first.fingerprint() == second.fingerprint()
    assert json.loads(json.dumps(first.fingerprint())) == first.fingerprint()
    assert first.fingerprint()["kind"] == name
    assert first.digest() == first.fingerprint()["weights"]
    assert not first.needs_fit


@WITH_TOKENS
def test_tokens_fill_the_stated_grid(name, tmp_path, images):
    encoder = make(name, tmp_path, output="tokens")
    rows, columns = encoder.grid
    out = encoder(images)
    assert out.tokens.shape[:2] == (4, rows * columns)
    assert encoder.vector(images).shape == (4, rows * columns * out.tokens.shape[-1])
    assert encoder.fingerprint() != make(name, tmp_path).fingerprint()


@WITH_TOKENS
def test_tokens_make_a_map_and_features_of_every_pixel(name, tmp_path, images):
    encoder = make(name, tmp_path)
    tokens, (_, columns) = encoder(images).tokens, encoder.grid
    maps = encoder.maps(images)
    assert maps.shape[2:] == encoder.grid
    assert torch.equal(maps[:, :, 1, 0], tokens[:, columns])  # row by row
    want = F.interpolate(maps, (9, 20), mode="bilinear")
    assert torch.equal(encoder.dense(images, (9, 20)), want)


@pytest.mark.parametrize("name", ["pixel_pca", "inception"])
def test_without_tokens_there_are_no_features_of_pixels(name, tmp_path, images):
    encoder = make(name, tmp_path)
    for ask in (encoder.maps, lambda images: encoder.dense(images, (8, 8))):
        with pytest.raises(UserError, match=f"encoder {name} has no tokens.*as dinov2"):
            ask(images)


@WITH_TOKENS
def test_gray_images_are_repeated(name, tmp_path, images):
    encoder = make(name, tmp_path)
    gray = images[:, :1]
    assert torch.equal(encoder.vector(gray), encoder.vector(gray.expand(-1, 3, -1, -1)))


@ALL
def test_help_is_one_short_line(name):
    entry = ENCODERS[name]
    assert 0 < len(entry.help) <= 80
    assert "\n" not in entry.help


def lit(resolution: int, rows: int, columns: int, spots: list[tuple[int, int]]) -> torch.Tensor:
    """A dark image, then one per spot with that patch lit: [1 + spots, 3, R, R]."""
    images = torch.full((1 + len(spots), 3, resolution, resolution), 0.2)
    h, w = resolution // rows, resolution // columns
    for image, (r, c) in zip(images[1:], spots, strict=True):
        image[:, r * h : (r + 1) * h, c * w : (c + 1) * w] = 0.9
    return images


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(("resolution", "side"), [(224, 16), (518, 37)])
def test_a_lit_patch_lights_its_own_token_dinov2(tmp_path, resolution, side, registers):
    source = tiny_dinov2(tmp_path, registers=registers, image_size=518, scale=WEAK)
    encoder = ENCODERS["dinov2"].config(source=source, resolution=resolution).build()
    assert encoder.grid == (side, side)
    last = side - 1
    spots = [(0, 0), (0, last), (last, 0), (last, last), (3, 11), (11, 3), (9, 10)]
    tokens = encoder(lit(resolution, side, side, spots)).tokens
    change = (tokens[1:] - tokens[:1]).norm(dim=-1)  # [spots, side²]
    assert change.argmax(1).tolist() == [r * side + c for r, c in spots]
    runner_up = change.topk(2).values[:, 1]
    assert (change.max(1).values > 5 * runner_up).all(), "the lit token must stand out"


def test_a_lit_patch_lights_its_own_token_clip(tmp_path):
    encoder = ENCODERS["clip"].config(source=tiny_clip(tmp_path), resolution=64).build()
    assert encoder.grid == (8, 8)
    spots = [(0, 7), (1, 2), (2, 1), (3, 5), (7, 0)]
    tokens = encoder(lit(64, 8, 8, spots)).tokens
    change = (tokens[1:] - tokens[:1]).norm(dim=-1)
    assert change.argmax(1).tolist() == [r * 8 + c for r, c in spots]


def test_a_lit_quarter_lights_its_own_tokens_efficientnet():
    """A convolutional token sees far beyond its patch, so the test is by quarters."""
    encoder = ENCODERS["efficientnet_lite0"].config(resolution=256).build()
    spots = [(0, 0), (0, 1), (1, 0), (1, 1)]
    tokens = encoder(lit(256, 2, 2, spots)).tokens  # [5, 64, D]
    change = (tokens[1:] - tokens[:1]).norm(dim=-1).view(4, 2, 4, 2, 4).sum((2, 4))
    assert change.flatten(1).argmax(1).tolist() == [0, 1, 2, 3]
