"""``heun``: second order along the probability flow (the trapezoidal rule, predicted by Euler).

    z̃_s = z_t + h v(z_t, t),    z_s = z_t + h/2 (v(z_t, t) + v(z̃_s, s)),    h = s − t

Two forwards a step. A step onto pure data (σ(s) = 0) is Euler's: there the noise, and for some
parametrizations the velocity, is undefined (Karras et al. 2022, algorithm 1). That costs no order.
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


def heun(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`. 2 S − 1 forwards onto data."""
    state, steps = start(z, times)
    d_alpha, d_sigma = path.d_alpha(times).tolist(), path.d_sigma(times).tolist()
    sigma = path.sigma(times).tolist()
    for k, (t, s) in enumerate(steps):
        here = predict(denoise, state, t, z.dtype)
        velocity = combine((d_alpha[k], here.data), (d_sigma[k], here.noise))
        ahead = combine((1, state), (s - t, velocity))
        if sigma[k + 1] == 0:
            state = ahead
        else:
            there = predict(denoise, ahead, s, z.dtype)
            further = combine((d_alpha[k + 1], there.data), (d_sigma[k + 1], there.noise))
            state = combine((1, state), ((s - t) / 2, velocity), ((s - t) / 2, further))
        state = held(constrain, state, s)
    return state.to(z.dtype)


@SAMPLERS.register("heun", help="Heun's method on the probability flow; second order")
@schema
class HeunConfig(SteppedConfig):
    """Heun's method on the probability flow ODE; two forwards a step."""

    kind: Literal["heun"] = "heun"

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
        return heun(denoise, z, self.times_from(path, start), path=path, constrain=constrain)
