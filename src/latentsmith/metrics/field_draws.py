"""Distortion and perception apart: several draws for each signal.

Draws from the true posterior have twice the error of its mean, E|x̂ - x|² = 2 MMSE: single draws
*must* score 3.01 dB below the mean of many. A generative decoder whose draws beat its own mean is
not sampling, one far more than 3 dB below draws too widely.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_finite
from latentsmith.metrics.field_values import decibels, squared_error
from latentsmith.metrics.registry import metric


@dataclass(frozen=True)
class DrawScores:
    """Of N signals with K draws each, float64 [N] each."""

    single: Tensor
    """PSNR in dB of one draw (from the mean squared error over draws)."""
    mean: Tensor
    """PSNR in dB of the mean of the draws."""
    spread: Tensor
    """(1 + 1/K) variance of the draws over the squared error of their mean, see `draws_spread`."""
    expected_gain: float
    """How far ``mean`` lies above ``single`` for calibrated draws: 10 log10(2K / (K + 1)) dB."""


def draw_scores(draws: Tensor, truth: Tensor) -> DrawScores:
    """Scores of draws.

    Args:
        draws: [K, N, C, …], K >= 2. truth: [N, C, …]. Both in [-1, 1].

    Raises:
        UserError: shapes differ, one draw, NaN.
    """
    if draws.ndim != truth.ndim + 1 or draws.shape[1:] != truth.shape:
        raise UserError(
            f"draws must be [K, N, …] of truth's [N, …], got {list(draws.shape)} and "
            f"{list(truth.shape)}."
        )
    count = len(draws)
    if count < 2:
        raise UserError(f"scores of draws need at least 2 draws, got {count}.")
    x, true = draws.detach().double(), check_finite(truth.detach(), "truth").double()
    for one in x:
        check_finite(one, "draws")
    single = torch.stack([squared_error(one, true) for one in x]).mean(0)
    of_mean = squared_error(x.mean(0), true)
    variance = x.var(0).flatten(1).mean(1)
    return DrawScores(
        single=decibels(single),
        mean=decibels(of_mean),
        spread=(1 + 1 / count) * variance / of_mean.clamp_min(1e-12),
        expected_gain=10 * math.log10(2 * count / (count + 1)),
    )


def spread_per_sample(field_draws: Tensor, field_ref: Tensor) -> Tensor:
    """Spread over error [N] of each signal; see `draws_spread`."""
    if field_draws.ndim != field_ref.ndim + 1:
        raise UserError(
            f"draws must be [N, K, …] of truth's [N, …], got {list(field_draws.shape)} and "
            f"{list(field_ref.shape)}."
        )
    check_finite(field_draws, "draws")  # which names the sample
    return draw_scores(field_draws.transpose(0, 1), field_ref).spread


@metric(
    "draws_spread",
    help="variance of the draws of a field over the error of their mean (1: calibrated)",
    inputs=("field_draws", "field_ref"),
    higher_is_better=None,
    per_sample=spread_per_sample,
)
def draws_spread(field_draws: Tensor, field_ref: Tensor) -> float:
    """Mean over signals of (1 + 1/K) s² / mean |mean of draws - truth|², s² the unbiased variance
    of the K draws, averaged over points.

    Where draws and truth come from one distribution the mean of K draws errs by its own variance
    s²/K and the truth's s². 1: the draws say how uncertain they are; below: they differ less than
    they err (too sure); above: they differ more (too wide).

    Args:
        field_draws: [N, K, C, …], K >= 2. field_ref: the truth [N, C, …]. Both in [-1, 1].

    Raises:
        UserError: shapes differ, one draw, NaN.
    """
    return float(spread_per_sample(field_draws, field_ref).mean())
