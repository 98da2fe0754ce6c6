"""A network together with the path and parametrization it was trained for.

Samplers and guidance never see a network: they see a `Denoise`, which answers in every
parametrization at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from latentsmith.backbones.base import Backbone, Condition
from latentsmith.diffusion.paths import Path


@dataclass(frozen=True)
class Prediction:
    """What a model thinks of z_t: ``data`` and ``noise`` [B, …] with z_t = α data + σ noise, and
    from them `v`, `velocity`, `score`. Guidance mixes predictions by `blend`."""

    data: Tensor
    noise: Tensor
    t: Tensor
    """Time [B]."""
    path: Path

    # v(), velocity(), score() and Prediction.of(value, z, t, path, parametrization): see the
    # diffusion helper's brief.


Denoise = Callable[[Tensor, Tensor], Prediction]
"""(z [B, …], t [B]) → prediction. Condition, guidance and precision are already in it."""


@dataclass(frozen=True)
class Denoiser:
    """A backbone with its path."""

    backbone: Backbone
    path: Path

    def __call__(self, z: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """z [B, C, H, W], t [B], condition of B samples."""
        raise NotImplementedError

    def bind(self, condition: Condition) -> Denoise:
        """This model for one condition: what samplers take."""
        return lambda z, t: self(z, t, condition)
