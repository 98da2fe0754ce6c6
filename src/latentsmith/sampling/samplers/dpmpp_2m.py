"""``dpmpp_2m``: DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095), algorithm 2, midpoint form.

    λ = log(α/σ),   h = λ_s − λ_t,   r = h_before / h
    D = x̂ + (x̂ − x̂_before) / (2 r)                extrapolated to the middle of the step
    z_s = (σ_s/σ_t) z_t + α_s (1 − e⁻ʰ) D,          α_s e⁻ʰ = α_t σ_s/σ_t

Second order with one forward a step. First order (D = x̂) where λ is infinite: after a start at
α = 0, and onto pure data; and, as everybody has it, for the last of fewer than 15 steps.
"""

from math import inf, log
from typing import Literal

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise
from latentsmith.diffusion.paths import Path
from latentsmith.sampling.grid import time_grid
from latentsmith.sampling.noise import StepNoise
from latentsmith.sampling.samplers.base import (
    SAMPLERS,
    Constrain,
    SteppedConfig,
    combine,
    held,
    predict,
    start,
)

FEW = 15


def dpmpp_2m(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
    lower_order_final: bool = True,
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`. One forward a step.

    Args:
        lower_order_final: the last of fewer than 15 steps is first order.
    """
    state, steps = start(z, times)
    alpha, sigma = path.alpha(times).tolist(), path.sigma(times).tolist()
    logsnr = [_log(a) - _log(s) for a, s in zip(alpha, sigma, strict=True)]
    before = None
    for k, (t, s) in enumerate(steps):
        data = predict(denoise, state, t, z.dtype).data
        middle, h = data, logsnr[k + 1] - logsnr[k]
        last = k == len(steps) - 1 and lower_order_final and len(steps) < FEW
        if before is not None and h < inf and not last:
            lean = h / (logsnr[k] - logsnr[k - 1]) / 2  # 1 / (2 r); 0 after an infinite step
            middle = combine((1 + lean, data), (-lean, before))
        kept = sigma[k + 1] / sigma[k]
        state = combine((kept, state), (alpha[k + 1] - alpha[k] * kept, middle))
        state = held(constrain, state, s)
        before = data
    return state.to(z.dtype)


def _log(x: float) -> float:
    return log(x) if x > 0 else -inf


@SAMPLERS.register("dpmpp_2m", help="DPM-Solver++ 2M: second order, one forward a step")
@schema
class Dpmpp2mConfig(SteppedConfig):
    """DPM-Solver++, two steps."""

    kind: Literal["dpmpp_2m"] = "dpmpp_2m"
    lower_order_final: bool = True
    """The last of fewer than 15 steps is first order, which is steadier."""

    def times(self, path: Path) -> Tensor:
        """See `SamplerConfig.times`; leading and linspace as diffusers' scheduler of this sampler,
        which leaves out the lowest of steps + 1 points."""
        return time_grid(
            self.steps, path, spacing=self.spacing, shift=self.shift, offset=self.offset,
            end=self.end, skip_last=True,
        )  # fmt: skip

    def sample(
        self,
        denoise: Denoise,
        z: Tensor,
        *,
        path: Path,
        noise: StepNoise | None = None,
        start: float = 1.0,
        constrain: Constrain | None = None,
    ) -> Tensor:
        """See `SamplerConfig.sample`."""
        return dpmpp_2m(
            denoise,
            z,
            self.times_from(path, start),
            path=path,
            constrain=constrain,
            lower_order_final=self.lower_order_final,
        )
