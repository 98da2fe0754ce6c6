"""``euler``: first order along the probability flow.

z_s = z_t + (s − t) dz/dt,    dz/dt = α'(t) x̂ + σ'(t) ε̂
"""

from typing import Literal

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise
from latentsmith.diffusion.paths import Path
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


def euler(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`. One forward a step."""
    state, steps = start(z, times)
    d_alpha, d_sigma = path.d_alpha(times).tolist(), path.d_sigma(times).tolist()
    for k, (t, s) in enumerate(steps):
        seen = predict(denoise, state, t, z.dtype)
        h = s - t
        state = combine((1, state), (h * d_alpha[k], seen.data), (h * d_sigma[k], seen.noise))
        state = held(constrain, state, s)
    return state.to(z.dtype)


@SAMPLERS.register("euler", help="Euler's method on the probability flow; first order")
@schema
class EulerConfig(SteppedConfig):
    """Euler's method on the probability flow ODE."""

    kind: Literal["euler"] = "euler"

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
        return euler(denoise, z, self.times_from(path, start), path=path, constrain=constrain)
