"""Which times a training sees.

    u ~ uniform(0, 1)     t = F⁻¹(u)     then t' = s t / (1 + (s − 1) t)

uniform       t = u
logit_normal  t = sigmoid(mean + std Φ⁻¹(u))          (Esser et al. 2024, SD3, arXiv 2403.03206)
shift         s > 1 moves times towards noise. SD3 shifts by s = √(m / n) when the resolution grows
              from n to m numbers; ``dimension`` is s = √(dim / 4096) with dim = C H W of the
              latent (Zheng et al. 2025, RAE, arXiv 2510.11690), 4096 being Stable Diffusion's
              4 x 32 x 32.

Everything goes through the inverse distribution, so that limits truncate (they do not pile up) and
strata of u are strata of probability.
"""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.paths import Path, precise

BASE_DIMENSION = 4096


@schema
class TimeConfig:
    """Distribution of the training's times."""

    kind: Literal["uniform", "logit_normal"] = "uniform"
    """uniform, or logit_normal: more of the middle."""
    mean: float = 0.0
    """logit_normal: mean of the logit; above 0, more noise."""
    std: Annotated[float, Field(gt=0)] = 1.0
    """logit_normal: standard deviation of the logit."""
    shift: Annotated[float, Field(gt=0)] | Literal["dimension"] = 1.0
    """Above 1: more of the noisy times; 1: none; dimension: the square root of the latent's numbers
    over 4096."""
    low: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least time drawn (after the shift)."""
    high: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Greatest time drawn (after the shift)."""
    stratified: bool = False
    """Spread the times of a batch evenly, one per equal share of probability: the same
    distribution, a steadier loss."""

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"times.low {self.low:g} must be below times.high {self.high:g}")

    def factor(self, dimension: int | None) -> float:
        """s. Raises ValueError for shift=dimension without ``dimension``."""
        if self.shift != "dimension":
            return float(self.shift)
        if dimension is None:
            raise ValueError("times.shift is 'dimension', and the latent's dimension is not given")
        return math.sqrt(dimension / BASE_DIMENSION)

    def sample(
        self, n: int, generator: torch.Generator, path: Path, *, dimension: int | None = None
    ) -> Tensor:
        """Times float32 [n] on the generator's device, each a time the path can be trained at.

        Args:
            dimension: numbers in one latent, for shift=dimension.
        """
        device = generator.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        u = torch.rand(n, generator=generator, device=device, dtype=wide)
        if self.stratified:
            place = torch.randperm(n, generator=generator, device=device)
            u = (place + u) / n
        return path.on_grid(self.quantile(u, dimension=dimension)).float()

    def quantile(self, u: Tensor, *, dimension: int | None = None) -> Tensor:
        """The time below which the share ``u`` of all draws lies; any shape, u in [0, 1]."""
        shift = self.factor(dimension)
        low, high = (self._cdf(_shifted(end, 1 / shift)) for end in (self.low, self.high))
        u = low + (high - low) * precise(u)
        t = u
        if self.kind == "logit_normal":
            t = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))
        return _shifted(t, shift).clamp(self.low, self.high)  # the ends are met up to rounding

    def _cdf(self, t: float) -> float:
        """Share of unshifted, unlimited draws below ``t``."""
        if self.kind == "uniform" or t in (0.0, 1.0):
            return t
        logit = math.log(t / (1 - t))
        return 0.5 * math.erfc(-(logit - self.mean) / self.std / math.sqrt(2))


def _shifted(t: Any, s: float) -> Any:
    """``t``, a number or a tensor, moved towards noise by s > 1."""
    return s * t / (1 + (s - 1) * t)
