"""Perceptual path length along decoded paths between real latents, and how even the path is.

At time t the speed is d(decode(z_t), decode(z_{t+eps})) / eps^2 with d a *squared* feature
distance (or LPIPS, which behaves like one): quadratic in eps, hence eps^2 (Karras et al.,
StyleGAN, 2019, there at random t). Here t runs over an even grid of each path:

* ``path_length``: mean over steps and paths (lower = less change along the way);
* ``path_length_variance``: variance over the steps of a path, mean over paths (lower = smoother);
* ``path_length_cv``: standard deviation over mean of a path's steps, mean over paths. Two models
  whose images or features differ in scale are comparable in this one only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite, check_paired
from latentsmith.metrics.interpolation import Path, path
from latentsmith.metrics.registry import metric

Decode = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
"""(images, images) [B, C, H, W] in [0, 1] → [B]."""


def squared_distance(features: Callable[[Tensor], Tensor]) -> Distance:
    """``sum (f(x) - f(y))^2 / D`` [B] in the feature space of ``features``: images → [B, ...]."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        # One call for both sides: one batch, so the same kernels round both alike.
        both = features(torch.cat([x, y])).flatten(1).double()
        return (both[: len(x)] - both[len(x) :]).square().mean(1)

    return distance


def pixel_features(images: Tensor) -> Tensor:
    """The images themselves, as the feature space of last resort."""
    return images


@torch.no_grad()
def path_speeds(
    decode: Decode,
    start: Tensor,
    end: Tensor,
    distance: Distance,
    *,
    kind: Path = "lerp",
    steps: int = 8,
    eps: float = 1e-2,
    batch_size: int = 64,
) -> Tensor:
    """d(decode(z_t), decode(z_{t+eps})) / eps^2, float64 [P, steps].

    Args:
        decode: latents [B, ...] → images in [0, 1].
        start, end: P pairs of latents [P, ...].
        distance: squared perceptual distance, see `squared_distance`.
        steps: t = (k + 1/2) / steps - eps / 2 for k < steps, so each difference is centred in its
            share of the path.
        eps: step in t; too small drowns in rounding (below 1e-3 in float32, 1e-1 in bfloat16).

    Raises:
        UserError: NaN, unpaired ends, eps or steps that leave the path.
    """
    check_paired(start, end, "path starts", "path ends")
    check_count(len(start), 1, "path length", "pair of latents")
    check_finite(start, "path starts")
    check_finite(end, "path ends")
    if steps < 1 or not 0 < eps <= 1 / steps:
        raise UserError(f"path length needs steps >= 1 and 0 < eps <= 1/steps, got {steps}, {eps}.")
    move = path(kind)
    times = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps - eps / 2
    pairs = torch.arange(len(start)).repeat_interleave(steps)
    times = times.repeat(len(start))
    out = []
    for some in torch.arange(len(pairs)).split(batch_size):
        a, b, t = start[pairs[some]], end[pairs[some]], times[some]
        # decode's batch holds both ends of each small step, for equal rounding on both sides.
        images = decode(torch.cat([move(a, b, t), move(a, b, t + eps)]))
        check_finite(images, "decoded images")
        value = distance(images[: len(some)], images[len(some) :])
        out.append(value.double().cpu() / eps**2)
    return torch.cat(out).reshape(len(start), steps)


def mean_speed(speeds: Tensor) -> Tensor:
    """[P, T] → [P]: mean over a path's steps."""
    return speeds.mean(1)


def speed_variance(speeds: Tensor) -> Tensor:
    """[P, T] → [P]: unbiased variance over a path's steps."""
    check_count(speeds.shape[1], 2, "variance over steps", "steps")
    return speeds.var(1)


def speed_cv(speeds: Tensor) -> Tensor:
    """[P, T] → [P]: standard deviation over mean of a path's steps; 0 for a path that stands."""
    mean = speeds.mean(1)
    return torch.where(mean > 0, speed_variance(speeds).sqrt() / mean.clamp_min(1e-300), 0.0)


def _summary(summarize: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def per_path(decode: Decode, latents: Tensor, distance: Distance, **options: Any) -> Tensor:
        return summarize(path_speeds(decode, *neighbouring_pairs(latents), distance, **options))

    return per_path


def neighbouring_pairs(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [2 P, ...] as P pairs: (0, 1), (2, 3), …; the data order is random already."""
    check_count(len(latents), 2, "path length", "latents")
    check_finite(latents, "latents")
    even = len(latents) // 2 * 2
    return latents[0:even:2], latents[1:even:2]


_length, _variance, _cv = _summary(mean_speed), _summary(speed_variance), _summary(speed_cv)


@metric(
    "path_length",
    help="perceptual path length between latents: squared change of the decoded image per eps^2",
    inputs=("decode", "maps", "distance"),
    higher_is_better=False,
    per_sample=_length,
)
def path_length(
    decode: Decode,
    latents: Tensor,
    distance: Distance,
    *,
    kind: Path = "lerp",
    steps: int = 8,
    eps: float = 1e-2,
) -> float:
    """Mean speed over the paths between consecutive pairs of latents. See `path_speeds`."""
    return float(_length(decode, latents, distance, kind=kind, steps=steps, eps=eps).mean())


@metric(
    "path_length_variance",
    help="variance of the perceptual speed over the steps of a path (lower = smoother)",
    inputs=("decode", "maps", "distance"),
    higher_is_better=False,
    per_sample=_variance,
)
def path_length_variance(
    decode: Decode,
    latents: Tensor,
    distance: Distance,
    *,
    kind: Path = "lerp",
    steps: int = 8,
    eps: float = 1e-2,
) -> float:
    """Mean over paths of the speed's variance over steps. See `path_speeds`."""
    return float(_variance(decode, latents, distance, kind=kind, steps=steps, eps=eps).mean())


@metric(
    "path_length_cv",
    help="coefficient of variation of the perceptual speed over a path's steps (scale-free)",
    inputs=("decode", "maps", "distance"),
    higher_is_better=False,
    per_sample=_cv,
)
def path_length_cv(
    decode: Decode,
    latents: Tensor,
    distance: Distance,
    *,
    kind: Path = "lerp",
    steps: int = 8,
    eps: float = 1e-2,
) -> float:
    """Mean over paths of the speed's standard deviation over its mean. See `path_speeds`."""
    return float(_cv(decode, latents, distance, kind=kind, steps=steps, eps=eps).mean())
