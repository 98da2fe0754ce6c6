"""Noise that is one function of the coordinate, in every set of points."""

import pytest
import torch

from latentsmith.data.fields import axis, grid, noise
from latentsmith.data.fields.noise import SmoothNoise
from latentsmith.errors import UserError
from latentsmith.sampling.noise import starting_noise


def weights(n, samples, seed=0):
    return starting_noise(seed, range(samples), n.shape)


def test_equal_coordinates_have_equal_bits_whatever_stands_beside_them():
    n = SmoothNoise(3)
    w = weights(n, 5)
    fine = n(w, grid(96)[None]).view(5, 96, 96, 3)
    assert torch.equal(fine[:, 1::3, 1::3], n(w, grid(32)[None]).view(5, 32, 32, 3))
    points = fine.flatten(1, 2)
    for count in (1, 3, 7, 500):
        some = torch.randperm(96 * 96, generator=torch.Generator().manual_seed(count))[:count]
        assert torch.equal(n(w, grid(96)[some][None]), points[:, some])
        own = grid(96)[some].expand(2, -1, -1)
        assert torch.equal(n(w[3:], own), points[3:, some])


def test_what_is_summed_are_whole_numbers_whose_sums_are_exact():
    n = SmoothNoise(3)
    basis, whole = n._basis(grid(16)[None]).double(), noise._whole(weights(n, 3))
    assert torch.equal(basis, basis.round()) and torch.equal(whole, whole.round())
    assert basis.abs().max() <= noise.UNIT and whole.abs().max() > 1e5
    assert 2 * noise.MOST_FEATURES * noise.UNIT * noise.UNIT * noise.LARGEST <= 2**53
    assert torch.equal((basis @ whole)[0], (basis.flip(2) @ whole.flip(1))[0])


def test_it_is_the_sum_in_the_docstring():
    n = SmoothNoise(2, 3, band_limit=4, features=64)
    c = 2 * torch.rand(2, 40, 3, dtype=torch.float64) - 1
    w = weights(n, 2)
    phase = 2 * torch.pi * c.float().double() @ n._frequencies.double().T
    basis = torch.cat([phase.cos(), phase.sin()], -1)
    slow = basis @ w.double() / 64**0.5
    torch.testing.assert_close(n(w, c).double(), slow, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_mean_0_and_variance_1_at_every_point(dims):
    n = SmoothNoise(1, dims)
    x = n(weights(n, 4000), grid(3, dims)[None])[..., 0].double()
    assert x.mean(0).abs().max() < 0.08
    assert (x.var(0) - 1).abs().max() < 0.12


def test_no_frequency_above_the_band_limit():
    n = SmoothNoise(1, 1, band_limit=8)
    x = n(weights(n, 64), axis(256)[None, :, None])[..., 0].double()
    window = torch.hann_window(256, periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(x * window).abs().square().mean(0)  # by cycles across the domain
    assert power[12:].sum() < 1e-4 * power.sum() < power[4:9].sum()
    smooth, rough = (SmoothNoise(1, 1, band_limit=b) for b in (2, 16))
    steps = [
        n(weights(n, 64), axis(64)[None, :, None]).diff(dim=1).square().mean()
        for n in (smooth, rough)
    ]
    assert steps[0] < steps[1] / 10


def test_samples_and_seeds_differ():
    n, other = SmoothNoise(1), SmoothNoise(1, seed=1)
    w, points = weights(n, 2), grid(8)[None]
    assert not torch.equal(*n(w, points))
    assert not torch.equal(n(w, points), other(w, points))
    assert torch.equal(n(w, points), SmoothNoise(1)(w, points))


def test_errors():
    with pytest.raises(UserError, match="band_limit > 0"):
        SmoothNoise(3, band_limit=0)
