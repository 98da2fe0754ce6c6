"""Interpolation without learning: exact where it must be, and what it gives on photographs."""

from pathlib import Path

import pytest
import torch

from latentsmith.data.fields import ImageField, grid, observe
from latentsmith.data.fields.interpolation import INTERPOLATORS, bicubic, interpolate
from latentsmith.data.fields.patterns.random import Random
from latentsmith.data.photos import PhotosConfig
from latentsmith.errors import UserError
from latentsmith.utils.seeding import generator


def known(dims, count=40):
    rng = torch.Generator().manual_seed(0)
    where = 2 * torch.rand(2, count, dims, generator=rng, dtype=torch.float64) - 1
    slope = torch.randn(dims, 3, generator=rng, dtype=torch.float64)
    return where, where @ slope + 0.5, slope


EXACT = ("linear", "thin_plate")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("method", INTERPOLATORS)
def test_known_points_keep_their_values_and_planes_stay_planes(method, dims):
    where, what, slope = known(dims)
    if method == "cubic" and dims == 3:
        with pytest.raises(UserError, match="for 1 or 2 dimensions"):
            interpolate(method, where, what, where)
        return
    again = interpolate(method, where, what, where)
    if method == "mean":
        torch.testing.assert_close(again, what.mean(1, keepdim=True).expand_as(what))
        return
    torch.testing.assert_close(again, what, rtol=0, atol=1e-7)
    inside = (where[:, :10] + where[:, 10:20] + where[:, 20:30]) / 3  # in the hull
    if method in EXACT or (method == "cubic" and dims == 2):
        tolerance = 1e-4 if method == "cubic" else 1e-7  # its gradients are found by iteration
        plane = inside @ slope + 0.5
        found = interpolate(method, where, what, inside)
        torch.testing.assert_close(found, plane, rtol=0, atol=tolerance)
    corners = interpolate(method, where, what, grid(2, dims)[None].double())  # outside the hull
    assert corners.shape == (2, 2**dims, 3) and corners.isfinite().all()
    if method not in ("thin_plate", "kriging"):
        assert corners.max() <= what.max() and corners.min() >= what.min()


def test_kriging_is_the_mean_of_a_gaussian_process():
    """Of the covariance K - r^1.8, whose mean is 0, for a large K: then its level is free."""
    where, what, _ = known(2)
    what = what.sin() + where.square().sum(2, keepdim=True)
    asked = grid(5)[None].double()
    among, across = (1e6 - torch.cdist(x, where[:1]) ** 1.8 for x in (where[:1], asked))
    process = across @ torch.linalg.solve(among, what[:1])
    found = interpolate("kriging", where[:1], what[:1], asked)
    torch.testing.assert_close(found, process, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic", "thin_plate", "kriging"])
def test_points_in_one_place_count_as_one(method):
    where, what, _ = known(2)
    twice = interpolate(
        method, torch.cat([where] * 2, 1), torch.cat([what - 1, what + 1], 1), where
    )
    torch.testing.assert_close(twice, what, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "cubic", "thin_plate"])
def test_too_few_points_or_all_on_a_line(method):
    where, what, _ = known(2)
    line = torch.stack([where[..., 0], where[..., 0]], -1)
    for few in (where[:, :2], line):
        with pytest.raises(UserError, match="at least 3, not all on one line"):
            interpolate(method, few, what[:, : few.shape[1]], where)


def test_bicubic_keeps_the_pixel_center_convention():
    ramp = grid(8)[:, 1].view(1, 1, 8, 8)
    fine = bicubic(ramp, 24)
    torch.testing.assert_close(fine[..., 6:-6], grid(24)[:, 1].view(1, 1, 24, 24)[..., 6:-6])


def test_on_photographs_structure_pays():
    """The order of the research page's table; benchmarks/field_interpolation.py has the numbers."""
    images = PhotosConfig(val_stride=96).build("val", Path()).images[::7].float() / 127.5 - 1
    field = ImageField(images)
    where, what, _ = observe(field, 32, 205, Random(), generator(0))
    error = {
        method: interpolate(method, where, what, grid(32)[None]).transpose(1, 2).flatten(1)
        - field.lattice(32).flatten(1)
        for method in INTERPOLATORS
    }
    mse = {method: float(e.square().mean()) for method, e in error.items()}
    assert mse["mean"] > 2 * mse["nearest"]
    assert mse["nearest"] > 1.1 * mse["linear"] > 1.1 * mse["thin_plate"]
    assert mse["kriging"] == pytest.approx(mse["thin_plate"], rel=0.1)


def test_errors():
    with pytest.raises(UserError, match=r"no interpolation 'linera'.*'linear'"):
        interpolate("linera", *known(2)[:2], known(2)[0])
