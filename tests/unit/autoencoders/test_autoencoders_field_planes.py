"""Kriged planes: against SciPy, against autograd, and where they are known."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from helpers.fields import points
from latentsmith.autoencoders.field.planes import Kriging, PlaneBlend
from latentsmith.autoencoders.field.weights import start
from latentsmith.backbones.mixers import Points
from latentsmith.data.fields.coordinates import grid
from latentsmith.data.fields.interpolation import interpolate

SPACING = 0.25


def kriging(power: float = 1.8, nugget: float = 0.01) -> Kriging:
    planes = Kriging(SPACING)
    start(torch.nn.ModuleList([planes]), 0)
    torch.nn.init.constant_(planes.power_logit, math.log(power / (2 - power)))
    torch.nn.init.constant_(planes.log_nugget, math.log(nugget))
    return planes


def blend(channels: int = 3) -> PlaneBlend:
    blend = PlaneBlend(channels, SPACING)
    start(torch.nn.ModuleList([blend]), 0)
    return blend


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("nugget", [1e-9, 0.3])
def test_the_surface_is_scipys_with_a_linear_kernel_and_a_constant(nugget, shared):
    where, values = points(40, batch=3)
    where = where[:1] if shared else where
    at = points(9, batch=1, seed=1)[0]
    told = kriging(1.0, nugget)(Points(at), Points(where), values)[..., :3]
    for sample in range(3):
        c = where[0 if shared else sample].double().numpy() / SPACING
        surface = RBFInterpolator(
            c, values[sample].double().numpy(), kernel="linear", degree=0, smoothing=nugget
        )
        expected = surface(at[0].double().numpy() / SPACING)
        np.testing.assert_allclose(told[sample].detach().numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("power", [0.7, 1.8])
def test_slopes_are_the_surfaces_gradient(dims, power):
    where, values = points(20, dims=dims)
    at = (0.8 * points(6, dims=dims, seed=1)[0]).double().requires_grad_()
    planes = kriging(power)
    surface = _double(planes, at, where, values)
    for channel in range(3):
        (slope,) = torch.autograd.grad(surface[..., channel].sum(), at, retain_graph=True)
        told = planes(Points(at), Points(where), values)[..., 3:].unflatten(-1, (dims, 3))
        torch.testing.assert_close(
            told[..., channel], (slope * SPACING).float(), atol=1e-4, rtol=1e-4
        )


def _double(planes, at, where, values):
    """The surface alone, without the float32 at the end."""
    a, c = at / SPACING, where.double() / SPACING
    weights, mean = planes._solve(c, values.double())
    return mean - torch.cdist(a, c) ** planes._power() @ weights


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_linear_fields_come_back_from_scattered_points(dims):
    """At α = 2 a power variogram is a plane's; near it, planes nearly come back."""
    where = points(60, dims=dims)[0]
    slope = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, 0.0], [-0.6, 0.2, 0.1]])[:dims]
    values = where @ slope + 0.1
    anchors = Points(grid(8 if dims < 3 else 4, dims)[None])
    planes = kriging(1.998, 1e-9)(anchors, Points(where), values)
    asked = 0.8 * points(20, dims=dims, seed=2)[0]
    told = blend()(Points(asked), anchors, planes)
    torch.testing.assert_close(told, asked @ slope + 0.1, atol=3e-2, rtol=0)


def test_a_large_nugget_gives_the_mean():
    where, values = points(30)
    told = kriging(nugget=1e9)(Points(grid(4)[None]), Points(where), values)[..., :3]
    torch.testing.assert_close(told, values.mean(1, keepdim=True).expand(-1, 16, -1))


def test_smooth_fields_come_back_better_than_from_triangles():
    where = points(205, batch=4)[0]

    def signal(c):
        return torch.stack([(3 * c).sin().prod(-1), (2 * c).cos().sum(-1) / 2], dim=-1)

    asked = 0.9 * points(400, batch=4, seed=2)[0]
    anchors = Points(grid(16)[None])
    planes = Kriging(2 / 16)
    planes.reset()
    blended = PlaneBlend(2, 2 / 16)
    blended.near.reset()
    told = blended(Points(asked), anchors, planes(anchors, Points(where), signal(where)))
    triangles = interpolate("linear", where, signal(where), asked)
    ours, theirs = ((x - signal(asked)).square().mean() for x in (told, triangles))
    assert ours < theirs


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_points_give_finite_planes(count):
    where, values = points(count)
    planes = kriging()(Points(grid(4)[None]), Points(where), values)
    assert planes.isfinite().all() and planes[..., :3].abs().max() < 3
    if count == 1:
        torch.testing.assert_close(planes[..., :3], values.expand(-1, 16, -1))
        assert not planes[..., 3:].any()


def test_points_that_coincide_have_finite_gradients():
    where, values = points(8)
    where[:, 1:6] = where[:, :1]
    planes = kriging()
    values.requires_grad_()
    told = planes(Points(where[:, :3]), Points(where), values)
    told.square().sum().backward()
    assert told.isfinite().all() and values.grad is not None and values.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in planes.parameters())


def test_precision_does_not_follow_autocast():
    where, values = points(30)
    anchors = Points(grid(4)[None])
    whole = kriging()(anchors, Points(where), values)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = kriging()(anchors, Points(where), values)
        blended = blend()(Points(where), anchors, narrow)
    assert narrow.dtype == blended.dtype == torch.float32
    assert torch.equal(narrow, whole)
