"""What lies between two signals: is the way even, straight and sharp?

A path is S decoded points, α = 0 … 1 (`latentsmith.metrics.interpolation.path_grid` decodes them).
The blend of two pictures is perfectly even and straight, and a double exposure: its gradient
energy, for pictures that have nothing in common, is half that of its ends. So no number here
stands alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_finite


@dataclass(frozen=True)
class PathShape:
    """Of P paths, float64 [P] each."""

    unevenness: Tensor
    """Longest step over the mean step: 1 for an even path."""
    bend: Tensor
    """RMS second difference over the mean step: 0 for a straight, even path."""
    length: Tensor
    """Sum of the steps over the distance of the ends: 1 for a straight path."""
    middle_gradient: Tensor
    """Gradient energy at α = 1/2 over the mean of both ends: 1 is as sharp as the ends."""
    blend_gradient: Tensor
    """The same of the ends' pixel blend: what ``middle_gradient`` must exceed."""


def path_shape(frames: Tensor) -> PathShape:
    """Shape of P decoded paths.

    Args:
        frames: [P, S, C, …] with S odd, at least 3, and α evenly spaced; 11 is usual.

    Raises:
        UserError: another shape, NaN, ends that are equal or flat.
    """
    if frames.ndim < 4 or frames.shape[1] < 3 or frames.shape[1] % 2 == 0:
        raise UserError(
            "paths must be [P, S, C, …] with an odd number S >= 3 of points each, "
            f"got {list(frames.shape)}."
        )
    x = check_finite(frames.detach(), "paths").double()
    steps = _rms(x.diff(dim=1))  # [P, S - 1]
    span = _rms(x[:, -1:] - x[:, :1])[:, 0]
    ends = (gradient_energy(x[:, 0]) + gradient_energy(x[:, -1])) / 2
    if not span.all() or not ends.all():
        raise UserError("the shape of a path is undefined: its ends are equal, or both are flat.")
    mean = steps.mean(1)
    blend = (x[:, 0] + x[:, -1]) / 2
    return PathShape(
        unevenness=steps.amax(1) / mean,
        bend=_rms(x.diff(n=2, dim=1)).square().mean(1).sqrt() / mean,
        length=steps.sum(1) / span,
        middle_gradient=gradient_energy(x[:, x.shape[1] // 2]) / ends,
        blend_gradient=gradient_energy(blend) / ends,
    )


def gradient_energy(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours, summed over axes: [N, C, …] → [N]."""
    parts = [values.diff(dim=d).square().flatten(1).mean(1) for d in range(2, values.ndim)]
    return torch.stack(parts).sum(0)


def _rms(x: Tensor) -> Tensor:
    """[P, S, …] → [P, S]"""
    return x.flatten(2).square().mean(2).sqrt()
