"""``interval_cfg``: guidance in an interval of noise only (Kynkäänniemi et al. 2024).

arXiv 2404.07724. Early guidance narrows what can be generated, late guidance does nothing: outside
the interval the conditional model runs alone, in half the time. The paper gives its interval in
σ/α; on the linear path t = (σ/α) / (1 + σ/α).
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.backbones.base import Condition
from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Denoiser, Prediction
from latentsmith.sampling.guidance.base import GUIDANCE, GuidanceConfig, Pair, no_weak


@GUIDANCE.register("interval_cfg", help="classifier-free guidance in an interval of time only")
@schema
class IntervalCfgConfig(GuidanceConfig):
    """Classifier-free guidance where low <= t <= high."""

    kind: Literal["interval_cfg"] = "interval_cfg"
    scale: Annotated[float, Field(ge=0)] = 1.8
    """Inside the interval: 1 is the conditional model, 0 the unconditional one."""
    low: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least noisy time with guidance; 0 is data."""
    high: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Noisiest time with guidance; 1 is noise."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low} lies above high={self.high}: swap them")

    def bind(
        self, denoiser: Denoiser, condition: Condition, weak: Denoiser | None = None
    ) -> Denoise:
        """See `GuidanceConfig.bind`. Looks at the times, which waits for the device."""
        no_weak(weak, self.kind)
        plain = denoiser.bind(condition)
        if self.scale == 1:
            return plain
        pair = Pair(denoiser, condition)

        def denoise(z: Tensor, t: Tensor) -> Prediction:
            inside = (t >= self.low) & (t <= self.high)
            if not inside.any():
                return plain(z, t)
            conditional, unconditional = pair(z, t)
            guided = unconditional.blend(conditional, self.scale)
            rows = inside.view(-1, *[1] * (z.ndim - 1))  # a batch may hold several times
            return replace(
                guided,
                data=torch.where(rows, guided.data, conditional.data),
                noise=torch.where(rows, guided.noise, conditional.noise),
            )

        return denoise
