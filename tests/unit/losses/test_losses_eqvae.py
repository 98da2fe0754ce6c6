"""EQ-VAE: both sides see one transform, and an equivariant autoencoder costs nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.latent_views import PLACE, Toy, batch, squared, toy_view, view
from latentsmith.losses.eqvae import EQVAE, EQVAEConfig, Turn

STEPS = range(12)


def term(**settings) -> EQVAE:
    return EQVAEConfig(**settings).regularizer(PLACE)


def mixing():
    """An encoder that mixes channels at each position, and its exact inverse: equivariant."""
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inverse = torch.linalg.inv(matrix)
    encode = lambda x: F.conv2d(x, matrix[:, :, None, None])  # noqa: E731
    return encode, lambda z: F.conv2d(z, inverse[:, :, None, None])


@pytest.mark.parametrize("anisotropic", [False, True])
def test_an_equivariant_autoencoder_has_no_loss(anisotropic):
    encode, decode = mixing()
    images = batch(side=12)["image"]
    for step in STEPS:
        loss, parts = term(anisotropic=anisotropic)(view(images, encode, decode, step=step))
        assert loss < 1e-24, step
        assert parts["reconstruction"] == loss


def test_averaging_blocks_is_equivariant_under_rotation():
    """Stride 4: latents of 3 x 3 for images of 12 x 12 in constant blocks."""
    blocks = torch.rand(4, 3, 3, 3, dtype=torch.float64)
    images = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    encode = lambda x: F.avg_pool2d(x, 4)  # noqa: E731
    decode = lambda z: z.repeat_interleave(4, 2).repeat_interleave(4, 3)  # noqa: E731
    for step in STEPS:
        seen = view(images, encode, decode, step=step)
        assert term(scale=(1.0, 1.0))(seen)[0] < 1e-24


def test_an_autoencoder_that_is_not_equivariant_has_a_loss():
    """It memorizes columns: reconstruction is exact, rotation is not."""
    ramp = torch.linspace(0, 1, 12, dtype=torch.float64)
    seen = view(batch(side=12)["image"], lambda x: x + ramp, lambda z: z - ramp[: z.shape[-1]])
    assert seen.objective < 1e-24
    turned = Turn((12, 12), 1)
    assert squared(seen.decode(turned(seen.latent)), turned(seen.images)) > 1e-2


def test_formula_by_hand():
    """D(τ z) against τ x, with τ done the long way."""
    toy, data = Toy().double(), batch()
    for step in STEPS:
        seen = toy_view(toy, data, step=step)
        turn = term(anisotropic=True).draw(seen)
        z, x = seen.latent, seen.images
        if turn.size != (4, 4):
            size = turn.size
            z = F.interpolate(z, size, mode="bicubic", antialias=True)
            x = F.interpolate(x, (2 * size[0], 2 * size[1]), mode="bicubic", antialias=True)
        for _ in range(turn.quarters):
            z, x = (y.transpose(2, 3).flip(2) for y in (z, x))  # 90° counter-clockwise
        expected = (toy.decoder(z) - x).square().mean()
        torch.testing.assert_close(term(anisotropic=True)(seen)[0], expected, rtol=0, atol=1e-14)


def test_the_objective_judges_and_gradient_reaches_both_halves():
    toy, data = Toy().double(), batch()
    seen = toy_view(toy, data, reconstruction=lambda a, b: 3 * (a - b).abs().mean())
    loss, parts = term()(seen)
    ((decoded, image),) = term().pictures(seen)
    torch.testing.assert_close(loss, 3 * (decoded - image).abs().mean())
    assert not parts["reconstruction"].requires_grad
    loss.backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in toy.parameters())


def test_what_is_drawn():
    seen = [view(torch.rand(1, 3, 64, 128), *[nn.Identity()] * 2, step=s) for s in range(400)]
    even = [term().draw(v) for v in seen]
    assert {t.quarters for t in even} == {0, 1, 2, 3}
    shares = torch.tensor([t.size for t in even]) / torch.tensor([64, 128])
    assert 0.24 < shares.min() < 0.3 and 0.95 < shares.max() <= 1
    assert abs(float(shares.mean()) - 0.625) < 0.03
    assert (shares[:, 0] - shares[:, 1]).abs().max() < 0.02
    free = [term(anisotropic=True, rotate=False).draw(v) for v in seen]
    assert {t.quarters for t in free} == {0}
    shares = torch.tensor([t.size for t in free]) / torch.tensor([64, 128])
    assert abs(float(torch.corrcoef(shares.T)[0, 1])) < 0.15


def test_the_transform_is_that_of_the_step_alone():
    toy, data = Toy().double(), batch()
    whole = term().draw(toy_view(toy, data, step=3))
    assert term().draw(toy_view(toy, data, slice(4, 6), step=3)) == whole
    assert any(term().draw(toy_view(toy, data, step=s)) != whole for s in range(4, 8))


def test_images_stay_as_large_as_the_objective_can_judge():
    seen = [view(torch.rand(1, 3, 32, 32), *[nn.Identity()] * 2, step=s, smallest=16)
            for s in STEPS]  # fmt: skip
    assert min(min(term().draw(v).size) for v in seen) == 16
    small = view(torch.rand(1, 3, 8, 8), *[nn.Identity()] * 2, smallest=16)
    assert term().draw(small).size == (8, 8)  # smaller than can be judged: never enlarged


def test_bfloat16_under_autocast():
    toy, data = Toy(), {k: v.float() for k, v in batch().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for step in STEPS:
            assert term()(toy_view(toy, data, step=step))[0].isfinite()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"scale": (0.0, 1.0)}, "0 < low <= high <= 1"),
        ({"scale": (0.9, 0.5)}, "0 < low <= high <= 1"),
        ({"scale": (1.0, 1.0), "rotate": False}, "no transform at all"),
    ],
)
def test_settings_that_make_no_sense(settings, text):
    with pytest.raises(ValueError, match=text):
        EQVAEConfig(**settings)
