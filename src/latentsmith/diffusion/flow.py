"""Flow paths: ``linear`` and ``gvp`` (Ma et al. 2024, SiT, arXiv 2401.08740, section 2).

linear   α = 1 − t           σ = t              Lipman et al. 2023, Liu et al. 2023
gvp      α = cos(π t / 2)    σ = sin(π t / 2)   α² + σ² = 1

Both reach pure noise: α(1) = 0 exactly.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.paths import PATHS, Path, PathConfig


class LinearPath(Path):
    """Straight lines from data to noise; dz/dt = ε − x."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t * 1  # a tensor of its own, as the others return

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class GVPPath(Path):
    """Quarter circles from data to noise: the variance of z stays 1 when that of x is 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * (1 - t)).sin()  # = cos(πt/2), and exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t).sin()

    def d_alpha(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)


@PATHS.register("linear", help="straight lines, z = (1 - t) x + t noise (flow matching, SiT)")
@schema
class LinearPathConfig(PathConfig):
    """Straight lines from data to noise."""

    kind: Literal["linear"] = "linear"

    def build(self) -> LinearPath:
        """The path."""
        return LinearPath()


@PATHS.register("gvp", help="z = cos(pi t / 2) x + sin(pi t / 2) noise (SiT's GVP)")
@schema
class GVPPathConfig(PathConfig):
    """Quarter circles from data to noise."""

    kind: Literal["gvp"] = "gvp"

    def build(self) -> GVPPath:
        """The path."""
        return GVPPath()
