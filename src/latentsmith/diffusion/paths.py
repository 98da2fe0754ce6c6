"""From data to noise: z_t = α(t) x + σ(t) ε.

One time convention for the whole library: t = 0 is data, t = 1 is noise. diffusers counts
discrete steps i = 0 … T − 1 from little to much noise; here step i is t = (i + 1) / T.
"""

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.registry import Registry

PATHS = Registry("path", "latentsmith.diffusion")


@schema
class PathConfig:
    """Base of all path configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self) -> "Path":
        """The path."""
        raise TypeError(f"{type(self).__name__} has no build()")


class Path:
    """α, σ and their derivatives as functions of time; t any shape in [0, 1], results the same
    shape and dtype (compute them in float64 where they cancel)."""

    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data, α(0) = 1."""
        raise TypeError(f"{type(self).__name__} has no alpha()")

    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise, σ(0) = 0 (or nearly)."""
        raise TypeError(f"{type(self).__name__} has no sigma()")

    def d_alpha(self, t: Tensor) -> Tensor:
        """dα/dt."""
        raise TypeError(f"{type(self).__name__} has no d_alpha()")

    def d_sigma(self, t: Tensor) -> Tensor:
        """dσ/dt."""
        raise TypeError(f"{type(self).__name__} has no d_sigma()")

    def mix(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t [B, …] of data and noise [B, …] at times [B]."""
        shape = (-1, *[1] * (data.ndim - 1))
        return (
            self.alpha(t).view(shape).to(data) * data + self.sigma(t).view(shape).to(data) * noise
        )
