"""Convolutions over the tokens' grid; corrections in units of a field's contrast."""

import pytest
import torch
from torch.nn import functional as F

from helpers.fields import field_autoencoder, field_config, points, randomized
from latentsmith.autoencoders.field.convolutions import ConvolutionBlock, TokenGrid
from latentsmith.autoencoders.field.planes import FAINT, measure, standardized
from latentsmith.autoencoders.field.weights import start
from latentsmith.backbones.mixers import Points
from latentsmith.data.fields.coordinates import grid


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_tokens_hear_from_their_neighbours_on_the_grid(dims):
    tokens = TokenGrid(4, 1, 5, dims).double()
    start(tokens, 0)
    x = torch.randn(2, 5**dims, 4, dtype=torch.float64)
    assert torch.equal(tokens(x), x)  # starts as the identity
    randomized(tokens)
    moved = x.clone()
    moved[:, 0] += 1  # the corner's numbers
    changed = (tokens(moved) != tokens(x)).any(-1)[0]
    near = (grid(5, dims) < 0.1).all(-1)  # two convolutions: two tokens further
    assert torch.equal(changed, near)


def test_it_is_the_convolution_of_the_field_of_tokens():
    tokens = TokenGrid(3, 1, 4, 2).double()
    start(tokens, 0)
    randomized(tokens)
    (block,) = tokens.blocks
    assert isinstance(block, ConvolutionBlock)
    image = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    hidden = F.gelu(
        F.conv2d(image, block.first.weight, block.first.bias, padding=1), approximate="tanh"
    )
    expected = image + F.conv2d(hidden, block.second.weight, block.second.bias, padding=1)
    told = tokens(image.flatten(2).mT).mT.unflatten(2, (4, 4))
    torch.testing.assert_close(told, expected)


def test_a_single_token_has_no_grid():
    assert field_config(tokens=1, convolutions=1).build().encoder.grid is None
    assert field_config(tokens=4, convolutions=1).build().encoder.grid is not None


def test_gradients_reach_every_convolution():
    autoencoder = field_autoencoder(tokens=9, convolutions=2)
    values = autoencoder.decode_at(autoencoder.encode_points(*points()), points(9, seed=1)[0])
    values.square().sum().backward()
    idle = [n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


# Level and contrast -------------------------------------------------------------------------------


def test_level_and_contrast_follow_the_values():
    planes = torch.randn(2, 7, 9)
    level, contrast = measure(planes, 3)
    moved = 2.5 * planes
    moved[..., :3] += 0.7
    moved_level, moved_contrast = measure(moved, 3)
    torch.testing.assert_close(moved_level, 2.5 * level + 0.7)
    torch.testing.assert_close(moved_contrast, 2.5 * contrast)
    torch.testing.assert_close(contrast[:, 0, 0], planes[..., 3:].square().mean((1, 2)).sqrt())
    same = standardized(planes, 3, level, contrast)
    torch.testing.assert_close(standardized(moved, 3, moved_level, moved_contrast), same)
    torch.testing.assert_close(same[..., :3].mean(1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    assert measure(torch.zeros(1, 4, 9), 3)[1].item() == pytest.approx(FAINT)


@pytest.mark.parametrize("convolutions", [0, 1])
def test_stronger_and_brighter_fields_have_the_same_code_but_for_that(convolutions):
    """A trained network does to a y + b what it does to y."""
    autoencoder = field_autoencoder(tokens=9, convolutions=convolutions)
    (where, values), asked = points(30), points(9, seed=1)[0]
    with torch.no_grad():
        codes = autoencoder.encode_points(where, values)
        moved = autoencoder.encode_points(where, 0.25 * values + 0.5)
        told = autoencoder.decode_at(codes, asked)
        again = autoencoder.decode_at(moved, asked)
    expected = 0.25 * codes
    expected[:, :3] += 0.5
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, 0.25 * told + 0.5, atol=1e-4, rtol=1e-4)


def test_constant_fields_stay_constant_and_have_gradients():
    autoencoder = field_autoencoder(tokens=9, convolutions=1)
    where, values = points(30)
    values = torch.full_like(values, 0.3)
    told = autoencoder.values(autoencoder.codes(Points(where), values), [Points(where[:, :5])])
    told.sum().backward()
    assert (told - 0.3).abs().max() < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in autoencoder.parameters())
