"""Does a reconstruction wiggle, blur or speckle?

``roughness`` compares energies of the discrete Laplacian (squared sum of second differences):
1 is right, above 2 wiggles, below a half is blurred. ``residual_correlation`` looks at the error:
neighbours that err alike (near 1) miss structure, errors that are independent from point to point
(0) are speckle, alternating ones (below 0) ripples.
"""

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.field_values import LEAST_ERROR, check_fields
from latentsmith.metrics.registry import metric


def laplacian_energy(values: Tensor) -> Tensor:
    """Mean squared Laplacian (grid units) over inner points and channels: [N, C, …] → float64 [N].

    Raises UserError for an axis of fewer than 3 points.
    """
    axes = range(2, values.ndim)
    if min(values.shape[2:]) < 3:
        raise UserError(f"roughness needs at least 3 points an axis, got {list(values.shape[2:])}.")
    x = values.double()
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for dim in axes:
        part = x.diff(n=2, dim=dim)
        for other in axes:  # the other axes without their borders, to add up the same points
            part = part if other == dim else part.narrow(other, 1, part.shape[other] - 2)
        total = total + part
    return total.square().flatten(1).mean(1)


def roughness_per_sample(field: Tensor, field_ref: Tensor) -> Tensor:
    """Laplacian energy [N] over the mean energy of the true fields: their mean is `roughness`."""
    check_fields(field, field_ref)
    usual = laplacian_energy(field_ref).mean()
    if not usual > 0:
        raise UserError("roughness is undefined: all true fields are flat or linear.")
    return laplacian_energy(field) / usual


@metric(
    "roughness",
    help="Laplacian energy of reconstructions over that of the truth (1: right)",
    inputs=("field", "field_ref"),
    higher_is_better=None,
    best=1.0,
    per_sample=roughness_per_sample,
)
def roughness(field: Tensor, field_ref: Tensor) -> float:
    """Σ |∇²found|² / Σ |∇²true|² over all samples.

    Args:
        field, field_ref: [N, C, …], found and true, at least 3 points an axis.

    Raises:
        UserError: shapes differ, NaN, flat truth.
    """
    return float(roughness_per_sample(field, field_ref).mean())


def residual_correlation_per_sample(field: Tensor, field_ref: Tensor) -> Tensor:
    """Correlation [N] of the errors of neighbours, mean over axes; see `residual_correlation`."""
    check_fields(field, field_ref)
    error = field.double() - field_ref.double()
    error = error - error.flatten(2).mean(2).reshape(*error.shape[:2], *[1] * (error.ndim - 2))
    power = error.square().flatten(1).mean(1)
    none = power < LEAST_ERROR
    if none.any():
        raise UserError(
            f"residual_correlation is undefined: sample {int(none.nonzero()[0])} has no error, or "
            "a constant one."
        )
    axes = range(2, error.ndim)
    both = torch.stack(
        [
            (error.narrow(d, 1, error.shape[d] - 1) * error.narrow(d, 0, error.shape[d] - 1))
            .flatten(1)
            .mean(1)
            for d in axes
        ]
    )
    return both.mean(0) / power


@metric(
    "residual_correlation",
    help="correlation of the errors of neighbouring points (0: speckle, near 1: blur)",
    inputs=("field", "field_ref"),
    higher_is_better=None,
    per_sample=residual_correlation_per_sample,
)
def residual_correlation(field: Tensor, field_ref: Tensor) -> float:
    """Mean over samples of E[e(i) e(i + 1)] / E[e²], e the error less its mean, averaged over axes.

    Args:
        field, field_ref: [N, C, …], found and true, at least 2 points an axis.

    Raises:
        UserError: shapes differ, NaN, a sample without error.
    """
    return float(residual_correlation_per_sample(field, field_ref).mean())
