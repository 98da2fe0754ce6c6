"""A generator as an encoder: the features are those of its own network, at the time asked for."""

import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_models import tiny_generator
from latentsmith.diffusion.align import Aligner, AlignmentConfig
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


def aligned(folder, **settings):
    """A generator saved with heads on blocks 3 and 1, to a teacher of 5 numbers a token."""
    g = LatentGenerator.load(tiny_generator(folder))
    settings = {"blocks": [3, 1], "hidden": 6} | settings
    g.aligner = Aligner(AlignmentConfig(**settings), g.backbone, teacher_dim=5)
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in g.aligner.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.3)
    return str(g.save(folder / "aligned"))


@pytest.mark.parametrize("time_head", [False, True])
@pytest.mark.parametrize("tap", [None, 1])
def test_projected_tokens_are_the_head_s(tmp_path, images, tap, time_head):
    source = aligned(tmp_path, time_head=time_head)
    config = DenoiserConfig(source=source, tap=tap, time=0.4, draws=2, project=True)
    encoder, plain = config.build(), DenoiserConfig(source=source, tap=tap or 3, time=0.4).build()
    assert encoder.tap == (tap or 3), "left out: the first aligned block"
    assert encoder.dim == 5 and encoder.grid == plain.grid == (4, 4)
    heads = LatentGenerator.load(source).aligner
    number, t, want = heads.config.blocks.index(encoder.tap), torch.full((4,), 0.4), []
    for noise in encoder.noise:
        plain.noise = noise[None]
        with torch.no_grad():
            tokens = heads.heads[number](plain(images).tokens)
            want.append(heads.times[number](tokens, t) if time_head else tokens)
    out = encoder(images)
    torch.testing.assert_close(out.tokens, (want[0] + want[1]) / 2)
    torch.testing.assert_close(out.pooled, out.tokens.mean(1))
    assert encoder.dense(images, (8, 8)).shape == (4, 5, 8, 8)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_head_is_part_of_what_projected_features_depend_on(tmp_path):
    source = aligned(tmp_path)
    plain, projected = DenoiserConfig(source=source), DenoiserConfig(source=source, project=True)
    before = plain.build().fingerprint(), projected.build().fingerprint()
    assert "project" not in before[0], "what was cached before there were heads stays good"
    assert before[1]["project"] is True and before[1]["weights"] != before[0]["weights"]
    g = LatentGenerator.load(source)
    with torch.no_grad():
        g.aligner.heads[0].net[0].bias.add_(0.1)
    g.save(source)
    assert plain.build().fingerprint() == before[0]
    assert projected.build().fingerprint() != before[1]


def test_blocks_without_head_and_generators_without_heads_are_refused(source, tmp_path):
    with pytest.raises(UserError, match=r"block 2 has no alignment head: .* are on 3, 1$"):
        DenoiserConfig(source=aligned(tmp_path), tap=2, project=True).build()
    with pytest.raises(UserError, match=r"this generator was saved without: .*project=false"):
        DenoiserConfig(source=source, project=True).build()
