"""``ddim``: Song et al. 2020 (arXiv 2010.02502), equations 12 and 16, on any path.

    z_s = α_s x̂ + √(σ_s² − η² v) ε̂ + η √v n        n: fresh noise
    v = σ_s²/σ_t² (σ_t² − (α_t/α_s)² σ_s²)           variance of z_s given z_t and x

η = 0: deterministic, first order in log(α/σ). η = 1: ancestral sampling (`ddpm`). The loop writes
ε̂ = (z_t − α_t x̂)/σ_t, which keeps what the state has and a network in half precision does not see.
"""

from math import sqrt
from typing import Annotated, Literal

from pydantic import Field
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
    needed,
    predict,
    start,
)


def ddim(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
    eta: float = 0.0,
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`. One forward a step.

    Args:
        eta: η, 0 to 1.

    Raises:
        UserError: η > 0 without ``noise``.
    """
    state, steps = start(z, times)
    alpha, sigma = path.alpha(times).tolist(), path.sigma(times).tolist()
    fresh = needed(noise, "ddim with eta > 0") if eta > 0 else None
    for k, (t, s) in enumerate(steps):
        data = predict(denoise, state, t, z.dtype).data
        std = eta * sqrt(posterior_variance(alpha[k], sigma[k], alpha[k + 1], sigma[k + 1]))
        kept = sqrt(sigma[k + 1] ** 2 - std**2) / sigma[k]
        state = combine((kept, state), (alpha[k + 1] - alpha[k] * kept, data))
        if fresh is not None and std > 0:
            state = state.add_(fresh(k, z.shape[1:]).to(state), alpha=std)
        state = held(constrain, state, s)
    return state.to(z.dtype)


def posterior_variance(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Variance of z_s given z_t and the data, s nearer to the data than t."""
    added = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    return sigma_s**2 / sigma_t**2 * added


@SAMPLERS.register("ddim", help="DDIM; eta=0 deterministic, eta=1 ancestral")
@schema
class DdimConfig(SteppedConfig):
    """Denoising diffusion implicit model."""

    kind: Literal["ddim"] = "ddim"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of fresh noise: 0 deterministic, 1 as much as ddpm."""

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
        return ddim(
            denoise,
            z,
            self.times_from(path, start),
            path=path,
            constrain=constrain,
            noise=noise,
            eta=self.eta,
        )
