"""Planes fitted to scattered values: against NumPy's least squares, and where they are exact."""

import math

import numpy as np
import pytest
import torch

from helpers.fields import points
from latentsmith.autoencoders.field.planes import PlaneBlend, PlaneFit
from latentsmith.autoencoders.field.weights import start
from latentsmith.backbones.mixers import Points
from latentsmith.data.fields.coordinates import grid
from latentsmith.data.fields.interpolation import interpolate

SPACING = 0.25


def fit(ridge: float = 0.1) -> PlaneFit:
    planes = PlaneFit(SPACING)
    start(torch.nn.ModuleList([planes]), 0)
    torch.nn.init.constant_(planes.log_ridge, math.log(ridge))
    return planes


def blend(channels: int = 3) -> PlaneBlend:
    blend = PlaneBlend(channels, SPACING)
    start(torch.nn.ModuleList([blend]), 0)
    return blend


def test_a_plane_is_the_weighted_ridge_regression_of_all_points():
    where, values = points(12, batch=1)  # fewer than 16: none is left out
    at = points(5, batch=1, seed=1)[0]
    found = fit(0.3)(Points(at), Points(where), values)[0].detach().double().numpy()
    for a, told in zip(at[0].double().numpy(), found, strict=True):
        away = where[0].double().numpy() - a
        apart = np.linalg.norm(away, axis=1)
        radius = 0.5 * np.sort(apart)[2]
        weights = np.exp(-((apart / radius) ** 2) / 2)
        weights /= weights.sum()
        offsets = away / radius
        center, mean = weights @ offsets, weights @ values[0].double().numpy()
        rows = np.sqrt(weights)[:, None]
        left = np.vstack([rows * (offsets - center), math.sqrt(0.3) * np.eye(2)])
        right = np.vstack([rows * values[0].double().numpy(), np.zeros((2, 3))])
        slopes = np.linalg.lstsq(left, right, rcond=None)[0]
        np.testing.assert_allclose(told[:3], mean - center @ slopes, atol=2e-4)
        np.testing.assert_allclose(told[3:], (slopes / radius * SPACING).ravel(), atol=2e-4)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_linear_fields_come_back_exactly_from_scattered_points(dims):
    where = points(60, dims=dims)[0]
    slope = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, 0.0], [-0.6, 0.2, 0.1]])[:dims]
    values = where @ slope + 0.1
    anchors = Points(grid(8 if dims < 3 else 4, dims)[None])
    planes = fit(1e-6)(anchors, Points(where), values)
    asked = points(20, dims=dims, seed=2)[0]
    told = blend()(Points(asked), anchors, planes)
    torch.testing.assert_close(told, asked @ slope + 0.1, atol=2e-3, rtol=0)


def test_smooth_fields_come_back_better_than_from_triangles():
    where = points(205, batch=4)[0]

    def signal(c):
        return torch.stack([(3 * c).sin().prod(-1), (2 * c).cos().sum(-1) / 2], dim=-1)

    asked = 0.9 * points(400, batch=4, seed=2)[0]
    anchors = Points(grid(16)[None])
    planes = PlaneFit(2 / 16)
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
    planes = fit()(Points(grid(4)[None]), Points(where), values)
    assert planes.isfinite().all() and planes[..., :3].abs().max() < 3
    if count == 1:
        torch.testing.assert_close(planes[..., :3], values.expand(-1, 16, -1))
        assert not planes[..., 3:].any()


def test_points_that_coincide_have_finite_gradients():
    where, values = points(8)
    where[:, 1:6] = where[:, :1]
    planes = fit()
    values.requires_grad_()
    told = planes(Points(where[:, :3]), Points(where), values)
    told.square().sum().backward()
    assert told.isfinite().all() and values.grad is not None and values.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in planes.parameters())


def test_precision_does_not_follow_autocast():
    where, values = points(30)
    anchors = Points(grid(4)[None])
    whole = fit()(anchors, Points(where), values)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = fit()(anchors, Points(where), values)
        blended = blend()(Points(where), anchors, narrow)
    assert narrow.dtype == blended.dtype == torch.float32
    assert torch.equal(narrow, whole)
