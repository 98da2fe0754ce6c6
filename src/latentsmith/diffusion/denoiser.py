"""A network together with the path and parametrization it was trained for.

Samplers and guidance never see a network: they see a `Denoise`, which answers in every
parametrization at once.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.backbones.base import Backbone, Condition
from latentsmith.diffusion.parametrization import Parametrization, data_and_noise, of_pair
from latentsmith.diffusion.paths import Path


@dataclass(frozen=True)
class Prediction:
    """What a model thinks of z_t: ``data`` and ``noise`` [B, …] with z_t = α data + σ noise, and
    from them `v`, `velocity`, `score`. Float32, or float64 when z was."""

    data: Tensor
    noise: Tensor
    t: Tensor
    """Time [B]."""
    path: Path
    variance: Tensor | None = None
    """[B, …] raw second half of networks that also learn the variance, see
    `latentsmith.diffusion.variational`; else None."""

    @classmethod
    def of(
        cls,
        value: Tensor,
        z: Tensor,
        t: Tensor,
        path: Path,
        parametrization: Parametrization,
        *,
        variance: Tensor | None = None,
    ) -> "Prediction":
        """From a value [B, …] in any parametrization, and the z_t it was made from.

        Raises:
            ValueError: data or noise do not follow from it at some ``t``, see
                `latentsmith.diffusion.parametrization.convert`.
        """
        data, noise = data_and_noise(value, z, t, path, parametrization)
        return cls(data, noise, t, path, variance)

    def said_as(self, parametrization: Parametrization) -> Tensor:
        """The prediction in one parametrization [B, …]. Raises ValueError for the score at
        σ = 0."""
        return of_pair(self.data, self.noise, self.t, self.path, parametrization)

    def v(self) -> Tensor:
        """α ε̂ − σ x̂ [B, …]."""
        return self.said_as("v")

    def velocity(self) -> Tensor:
        """α' x̂ + σ' ε̂ [B, …], the estimate of dz/dt."""
        return self.said_as("velocity")

    def score(self) -> Tensor:
        """−ε̂ / σ [B, …]. Raises ValueError where σ = 0."""
        return self.said_as("score")

    def z(self) -> Tensor:
        """α x̂ + σ ε̂ [B, …], the z_t that was denoised."""
        return self.path.mix(self.data, self.noise, self.t)

    def with_data(self, data: Tensor, z: Tensor) -> "Prediction":
        """The same z_t seen with other data [B, …] (clipped, rescaled): the noise follows.

        Raises ValueError where σ = 0.
        """
        return Prediction.of(data, z, self.t, self.path, "data", variance=self.variance)

    def blend(self, other: "Prediction", weight: float) -> "Prediction":
        """(1 − weight) self + weight other, weight any number: guidance is a blend of the null
        prediction towards the conditional one by the scale. Every parametrization is mixed alike,
        because all are linear. Keeps ``other``'s variance."""
        return Prediction(
            torch.lerp(self.data, other.data, weight),
            torch.lerp(self.noise, other.noise, weight),
            other.t,
            other.path,
            other.variance,
        )


Denoise = Callable[[Tensor, Tensor], Prediction]
"""(z [B, …], t [B]) → prediction. Condition, guidance and precision are already in it."""


@dataclass(frozen=True)
class Denoiser:
    """A backbone with its path."""

    backbone: Backbone
    path: Path
    precision: torch.dtype | None = None
    """Autocast of the network: torch.bfloat16 or torch.float16; None leaves that to the caller.
    What follows from its output is computed in float32 (float64 for float64 z) in any case."""

    def __call__(self, z: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """z [B, C, H, W], t [B], condition of B samples.

        Raises:
            ValueError: data or noise do not follow from what the network predicts at some ``t``.
        """
        inner = z.to(self._dtype())
        with (
            nullcontext()
            if self.precision is None
            else torch.autocast(z.device.type, self.precision)
        ):
            out = self.backbone(inner, t.float(), condition)
        return Prediction.of(
            out.sample, z, t, self.path, self.backbone.predicts, variance=out.variance
        )

    def _dtype(self) -> torch.dtype:
        """The dtype of the network's weights."""
        return next((p.dtype for p in self.backbone.parameters()), torch.float32)

    def bind(self, condition: Condition) -> Denoise:
        """This model for one condition: what samplers take."""
        return lambda z, t: self(z, t, condition)
