"""How near are written latents to the true ones, one for one?

Cosine alone saturates: the nearest training caption has 0.91 of a test caption's and never its
words. So the retrieval rank, the length and the share of variance stand beside it.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.losses.alignment import unit
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.intervals import bootstrap_weights, permutation_mean
from latentsmith.metrics.registry import Baseline, metric

_ROWS = 1024


def _pair(features: Tensor, features_ref: Tensor) -> tuple[Tensor, Tensor]:
    """Both [N, D] in float64, all but the first axis flattened."""
    check_count(len(features), 1, "a comparison of latents")
    pair = []
    for x, name in ((features, "features"), (features_ref, "features_ref")):
        if x.ndim < 2:
            raise UserError(f"{name} must be [N, ...], got {list(x.shape)}.")
        pair.append(check_finite(x.detach(), name).to(features.device).double().flatten(1))
    if pair[0].shape != pair[1].shape:
        raise UserError(
            f"latents {list(features.shape)} against true ones {list(features_ref.shape)}: they "
            "must have one shape and belong to the same samples."
        )
    return pair[0], pair[1]


def _others(per_sample: Any) -> Baseline:
    """What latents of other samples give."""

    def chance(features: Tensor, features_ref: Tensor, *, seed: int) -> tuple[float, dict]:
        def mean(i: Tensor, j: Tensor) -> float:
            return float(per_sample(features[i], features_ref[j]).mean())

        return permutation_mean(mean, len(features), seed)

    return chance


def cosine_per_sample(features: Tensor, features_ref: Tensor) -> Tensor:
    """Cosine [N]; arguments as `latent_cosine`."""
    a, b = _pair(features, features_ref)
    return (unit(a) * unit(b)).sum(1)


@metric(
    "latent_cosine",
    help="cosine of latents and true latents, as the encoder gives them",
    inputs=("features", "features_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=cosine_per_sample,
    baseline=_others(cosine_per_sample),
)
def latent_cosine(features: Tensor, features_ref: Tensor) -> float:
    """Mean over samples of cos(z, z_ref), of *raw* latents (denormalized).

    Args:
        features: [N, ...], flattened. features_ref: true, same shape.

    Raises:
        UserError: other shapes, NaN.
    """
    return float(cosine_per_sample(features, features_ref).mean())


def retrieved_per_sample(features: Tensor, features_ref: Tensor) -> Tensor:
    """1 where the nearest true latent is the sample's own [N]; arguments as `retrieval_at_1`."""
    a, b = (unit(x) for x in _pair(features, features_ref))
    hits = []
    for rows in torch.arange(len(a), device=a.device).split(_ROWS):
        near = a[rows] @ b.T  # [rows, N]
        own = near.gather(1, rows[:, None])
        near.scatter_(1, rows[:, None], -torch.inf)
        # a tie is a miss: a model that gives one latent for all texts finds nothing
        hits.append(own[:, 0] > near.max(1).values)
    return torch.cat(hits).double()


def _one_of_all(features: Tensor, features_ref: Tensor, *, seed: int) -> tuple[float, dict]:
    return 1 / len(features), {"chance": "1 / N"}


@metric(
    "retrieval_at_1",
    help="share of latents whose nearest true latent (cosine) is their own (R@1 in N)",
    inputs=("features", "features_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=retrieved_per_sample,
    baseline=_one_of_all,
)
def retrieval_at_1(features: Tensor, features_ref: Tensor) -> float:
    """R@1 among all N true latents: harder with every sample, so N belongs to the number. Arguments
    and errors: as `latent_cosine`."""
    return float(retrieved_per_sample(features, features_ref).mean())


def norm_ratio_per_sample(features: Tensor, features_ref: Tensor) -> Tensor:
    """|z| / |z_ref| [N]; arguments as `latent_norm_ratio`. Raises UserError for a true latent of
    length 0."""
    a, b = _pair(features, features_ref)
    length = b.norm(dim=1)
    if bool((length == 0).any()):
        zero = int((length == 0).nonzero()[0])
        raise UserError(f"true latent {zero} is zero: it has no length to compare with.")
    return a.norm(dim=1) / length


@metric(
    "latent_norm_ratio",
    help="length of latents over that of true latents (below 1: shrunk to the mean)",
    inputs=("features", "features_ref"),
    higher_is_better=None,
    best=1.0,
    per_sample=norm_ratio_per_sample,
)
def latent_norm_ratio(features: Tensor, features_ref: Tensor) -> float:
    """Mean of |z| / |z_ref|, of *normalized* latents, where noise has length √D. Arguments and
    errors: as `latent_cosine`, and a true latent of length 0."""
    return float(norm_ratio_per_sample(features, features_ref).mean())


def latent_mse_per_sample(features: Tensor, features_ref: Tensor) -> Tensor:
    """Mean squared error per dimension [N]; arguments as `latent_cosine`."""
    a, b = _pair(features, features_ref)
    return (a - b).square().mean(1)


@metric(
    "latent_mse",
    help="squared error per dimension of latents (normalized ones: the mean gets about 1)",
    inputs=("features", "features_ref"),
    higher_is_better=False,
    best=0.0,
    per_sample=latent_mse_per_sample,
)
def latent_mse(features: Tensor, features_ref: Tensor) -> float:
    """Mean over samples and dimensions. Arguments and errors: as `latent_cosine`."""
    return float(latent_mse_per_sample(features, features_ref).mean())


def _parts(features: Tensor, features_ref: Tensor) -> tuple[Tensor, Tensor]:
    """(squared error, squared distance from the mean true latent) [N] each. Raises UserError when
    all true latents are one."""
    a, b = _pair(features, features_ref)
    check_count(len(b), 2, "latent_r2")
    error, spread = (a - b).square().sum(1).cpu(), (b - b.mean(0)).square().sum(1).cpu()
    if float(spread.sum()) == 0:
        raise UserError("latent_r2 is undefined: all true latents are the same.")
    return error, spread


def _r2_replicates(features: Tensor, features_ref: Tensor, **chosen: Any) -> Tensor:
    error, spread = _parts(features, features_ref)
    weights = bootstrap_weights(len(error), chosen["replicates"], chosen["seed"])
    return 1 - (error @ weights) / (spread @ weights).clamp_min(1e-300)


@metric(
    "latent_r2",
    help="share of the true latents' variance that is explained",
    inputs=("features", "features_ref"),
    higher_is_better=True,
    best=1.0,
    replicates=_r2_replicates,
)
def latent_r2(features: Tensor, features_ref: Tensor) -> float:
    """1 − Σ |z − z_ref|² / Σ |z_ref − mean z_ref|²; negative where the mean would do better.
    Arguments and errors: as `latent_cosine`, and at least 2 samples that differ."""
    error, spread = _parts(features, features_ref)
    return float(1 - error.sum() / spread.sum())


def noise_area(levels: Tensor, values: Tensor) -> Tensor:
    """Area under a quality curve over latent noise, divided by its range: the mean quality.

    The robustness of a decoder in one number, after AuBLEU of PLANNER (Zhang et al. 2023, arXiv
    2306.02531), but of any measure.

    Args:
        levels: noise deviations, ascending [S], in units of normalized latents: (0, 0.1, 0.3, 0.6,
            1).
        values: quality at each, [S] or of each sample [S, N].

    Returns:
        float64, scalar or [N] (trapezoids).

    Raises:
        UserError: fewer than 2 levels, not ascending, or another number of values.
    """
    levels = levels.double()
    if len(levels) < 2 or len(values) != len(levels) or bool((levels.diff() <= 0).any()):
        raise UserError(
            f"a noise area needs at least 2 ascending levels and a value at each, got "
            f"{levels.tolist()} and {len(values)} values."
        )
    check_finite(values.double(), "values")
    return torch.trapezoid(values.double(), levels, dim=0) / (levels[-1] - levels[0])
