"""``ddpm``: ancestral sampling (Ho et al. 2020, arXiv 2006.11239, equation 7), on any path.

    z_s = mean of q(z_s | z_t, x̂) + √v n                      n: fresh noise
    mean = (a σ_s²/σ_t²) z_t + (α_s b/σ_t²) x̂,   a = α_t/α_s,   b = σ_t² − a² σ_s²
    v = σ_s² b/σ_t² (small)  or  b (large)  or  large^f small^(1 − f), f = (network + 1)/2 (learned)

Small is exact for data that is one point, large for standard normal data; with many steps they
agree. Learned: Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 15, which DiT has. The step onto
pure data adds no noise.
"""

from math import log, sqrt
from typing import Literal

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise
from latentsmith.diffusion.paths import Path
from latentsmith.errors import UserError
from latentsmith.sampling.noise import StepNoise
from latentsmith.sampling.samplers.base import (
    SAMPLERS,
    Constrain,
    SteppedConfig,
    combine,
    held,
    needed,
    predict,
    start,
)

Variance = Literal["small", "large", "learned"]


def ddpm(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
    variance: Variance = "small",
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`. One forward a step.

    Args:
        variance: of the fresh noise.

    Raises:
        UserError: no ``noise``, or a learned variance of a network that learns none.
    """
    state, steps = start(z, times)
    alpha, sigma = path.alpha(times).tolist(), path.sigma(times).tolist()
    fresh = needed(noise, "ddpm")
    for k, (t, s) in enumerate(steps):
        seen = predict(denoise, state, t, z.dtype)
        alpha_s, sigma_s = alpha[k + 1], sigma[k + 1]
        a = alpha[k] / alpha_s
        b = sigma[k] ** 2 - (a * sigma_s) ** 2
        kept, new = a * sigma_s**2 / sigma[k] ** 2, alpha_s * b / sigma[k] ** 2
        state = combine((kept, state), (new, seen.data))
        small = b * sigma_s**2 / sigma[k] ** 2
        if sigma_s > 0:
            n = fresh(k, z.shape[1:]).to(state)
            if variance == "learned":
                state = state + _learned(seen.variance, state, small, b) * n
            else:
                state = state.add_(n, alpha=sqrt(small if variance == "small" else b))
        state = held(constrain, state, s)
    return state.to(z.dtype)


def _learned(network: Tensor | None, like: Tensor, small: float, large: float) -> Tensor:
    """Standard deviation [B, …] between the two, from what the network says."""
    if network is None:
        raise UserError(
            "variance=learned is for networks that learn the variance (DiT's learn_sigma): use "
            "variance=small or large"
        )
    share = (network.to(like) + 1) / 2
    return (share * log(large) / 2 + (1 - share) * log(small) / 2).exp()


@SAMPLERS.register("ddpm", help="ancestral sampling of the diffusion's own reverse steps")
@schema
class DdpmConfig(SteppedConfig):
    """Ancestral sampling; wants some hundred steps."""

    kind: Literal["ddpm"] = "ddpm"
    variance: Variance = "small"
    """Variance of the fresh noise: small (of the step given the data), large (of the noise that
    the step forwards adds) or learned (in between, by networks that say where, as DiT). diffusers'
    fixed_small, fixed_large, learned_range."""

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
        return ddpm(
            denoise,
            z,
            self.times_from(path, start),
            path=path,
            constrain=constrain,
            noise=noise,
            variance=self.variance,
        )
