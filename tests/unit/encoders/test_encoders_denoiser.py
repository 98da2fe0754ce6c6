"""A generator as an encoder: the features are those of its own network, at the time asked for."""

import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_models import tiny_generator
from latentsmith.encoders.denoiser import DenoiserConfig, DenoiserEncoder
from latentsmith.errors import UserError
from latentsmith.sampling.generator import LatentGenerator


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_tokens_are_the_block_s_own(source, images):
    encoder = DenoiserConfig(source=source, tap=1, time=0.4).build()
    g = LatentGenerator.load(source)
    with torch.no_grad():
        x = g.normalizer.normalize(g.autoencoder.encode(images).mean)
        z = 0.6 * x + 0.4 * encoder.noise[0]
        label = torch.full((4,), 3)  # no class
        want = g.backbone(z, torch.full((4,), 0.4), {"label": label}, taps=(1,)).hidden[1]
    out = encoder(images)
    torch.testing.assert_close(out.tokens, want)
    torch.testing.assert_close(out.pooled, want.mean(1))
    assert encoder.grid == (4, 4) and encoder.dim == 8


def test_the_middle_block_is_the_default_and_a_wrong_one_is_refused(source, images):
    middle = DenoiserConfig(source=source).build()
    assert middle.tap == 2
    assert torch.equal(
        middle.vector(images), DenoiserConfig(source=source, tap=2).build().vector(images)
    )
    with pytest.raises(UserError, match="no block 9: blocks are 1 … 3"):
        DenoiserConfig(source=source, tap=9).build()(images)


def test_all_noise_says_nothing_of_the_image(source, images):
    blind = DenoiserConfig(source=source, time=1.0).build().vector(images)
    torch.testing.assert_close(blind, blind[:1].expand_as(blind))
    seeing = DenoiserConfig(source=source, time=0.1).build().vector(images)
    assert (seeing - seeing[:1]).norm(dim=1)[1:].min() > 1e-3


def test_more_draws_are_their_mean(source, images):
    two = DenoiserConfig(source=source, draws=2, time=0.5).build()
    one = DenoiserConfig(source=source, time=0.5).build()
    each = []
    for noise in two.noise:
        one.noise = noise[None]
        each.append(one(images).tokens)
    torch.testing.assert_close(two(images).tokens, (each[0] + each[1]) / 2)
    assert not torch.allclose(each[0], each[1])


def test_features_of_every_pixel(source, images):
    encoder = DenoiserConfig(source=source).build()
    dense = encoder.dense(images, (16, 16))
    tokens = encoder(images).tokens
    want = F.interpolate(tokens.mT.unflatten(2, (4, 4)), (16, 16), mode="bilinear")
    torch.testing.assert_close(dense, want)


def test_gray_generators_see_gray(tmp_path, images):
    encoder = DenoiserConfig(source=tiny_generator(tmp_path, channels=1)).build()
    gray = images.mean(1, keepdim=True)
    torch.testing.assert_close(encoder.vector(images), encoder.vector(gray))


def test_without_an_autoencoder_there_are_no_images(source):
    g = LatentGenerator.load(source)
    g.autoencoder = None
    with pytest.raises(UserError, match="need the generator's autoencoder"):
        DenoiserEncoder(g, config=DenoiserConfig(source=source))
