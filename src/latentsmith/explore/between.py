"""The way from one latent to another: what is decoded along it, and how fast that changes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.metrics.interpolation import Path, path_grid
from latentsmith.metrics.path_length import Decode, path_speeds, speed_cv, squared_distance

EPS = 1e-2
"""Small step in t, as `latentsmith.metrics.path_length` takes it."""


@dataclass(frozen=True)
class Walk:
    """A decoded path.

    Attributes:
        images: [steps, C, H, W] at t = 0 … 1, both ends included.
        speeds: squared change of features per eps², between each image and the next [steps − 1].
    """

    images: Tensor
    speeds: Tensor

    @property
    def length(self) -> float:
        """Perceptual path length: the mean speed."""
        return float(self.speeds.mean())

    @property
    def unevenness(self) -> float:
        """Deviation of the speed over its mean: 0 is a steady path, whatever the scale."""
        return float(speed_cv(self.speeds[None])[0]) if len(self.speeds) > 1 else 0.0


def walk(
    decode: Decode,
    start: Tensor,
    end: Tensor,
    features: Callable[[Tensor], Tensor],
    *,
    kind: Path,
    steps: int,
) -> Walk:
    """From latent ``start`` to ``end`` […] in ``steps`` images.

    Args:
        decode: latents [B, …] → images in [0, 1].
        features: images → vectors, in which change is measured.

    Raises:
        UserError: NaN, or another kind of path.
    """
    a, b = start[None], end[None]
    images = path_grid(decode, a, b, steps=steps, kind=kind)[0]
    speeds = path_speeds(
        decode, a, b, squared_distance(features), kind=kind, steps=steps - 1,
        eps=min(EPS, 1 / (steps - 1)),
    )  # fmt: skip
    return Walk(images, torch.as_tensor(speeds[0]))
