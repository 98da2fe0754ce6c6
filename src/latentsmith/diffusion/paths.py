"""From data to noise: z_t = α(t) x + σ(t) ε.

One time convention for the whole library: t = 0 is data, t = 1 is noise. diffusers counts
discrete steps i = 0 … T − 1 from little to much noise; here step i is t = (i + 1) / T.
"""

from functools import cached_property

import torch
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

    def on_grid(self, t: Tensor) -> Tensor:
        """Times at which a network for this path was or will be trained: ``t`` itself, or, on a
        path made of discrete steps, the step at or after it."""
        return t

    @cached_property
    def ends(self) -> tuple[float, float]:
        """(α(1), σ(0)): how much data is left at the noisy end, how much noise at the clean one.
        Where they are 0, some conversions between parametrizations have no answer."""
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return float(self.alpha(t)[1]), float(self.sigma(t)[0])

    def mix(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t [B, …] of data and noise [B, …] at times [B]."""
        t = precise(t)
        return weight(self.alpha(t), data) * data + weight(self.sigma(t), data) * noise


def precise(t: Tensor) -> Tensor:
    """Times in float64, where the device has it: coefficients cancel near the ends."""
    return t if t.device.type == "mps" else t.double()


def weight(factor: Tensor, like: Tensor) -> Tensor:
    """Per-sample factors [B] in the dtype of ``like`` [B, …], shaped to multiply it."""
    return factor.to(like).view(-1, *[1] * (like.ndim - 1))
