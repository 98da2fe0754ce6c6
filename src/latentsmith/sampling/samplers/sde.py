"""``sde``: Euler-Maruyama on the flow's reverse SDE (SiT, Ma et al. 2024, arXiv 2401.08740).

    dz = (v − ½ w s) dt + √w dW̄        v = dz/dt of the flow, s = −ε̂/σ the score

Every w(t) ≥ 0 has the same marginals when v and s are exact; w = 0 is `euler`. SiT's code writes
its coefficient without the factor 2, REPA's w = 2 t: both are scale = 2 here (form sigma on the
linear path). The last step is deterministic.
"""

from math import sqrt
from typing import Annotated, Literal

import torch
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

Form = Literal["sigma", "linear", "constant"]
Last = Literal["mean", "flow"]


def sde(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
    form: Form = "sigma",
    scale: float = 2.0,
    last: Last = "mean",
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`. One forward a step.

    Args:
        form: w/scale: σ(t), t or 1.
        scale: factor of w.
        last: the last step is the SDE's without its noise (mean), or the flow's (w = 0).

    Raises:
        UserError: no ``noise``.
    """
    state, steps = start(z, times)
    d_alpha, d_sigma = path.d_alpha(times).tolist(), path.d_sigma(times).tolist()
    sigma = path.sigma(times).tolist()
    fresh = needed(noise, "sde")
    for k, (t, s) in enumerate(steps):
        seen = predict(denoise, state, t, z.dtype)
        h, final = s - t, k == len(steps) - 1
        w = 0.0 if final and last == "flow" else scale * {
            "sigma": sigma[k], "linear": t, "constant": 1.0
        }[form]  # fmt: skip
        of_noise = d_sigma[k] + w / (2 * sigma[k])  # v − ½ w s, written in x̂ and ε̂
        state = combine((1, state), (h * d_alpha[k], seen.data), (h * of_noise, seen.noise))
        if not final and w > 0:
            state = state.add_(fresh(k, z.shape[1:]).to(state), alpha=sqrt(w * -h))
        state = held(constrain, state, s)
    return state.to(z.dtype)


@SAMPLERS.register("sde", help="Euler-Maruyama on the flow's reverse SDE, as SiT and REPA sample")
@schema
class SdeConfig(SteppedConfig):
    """Stochastic sampling of a flow."""

    kind: Literal["sde"] = "sde"
    steps: Annotated[int, Field(ge=1)] = 250
    """Steps from noise to data."""
    form: Form = "sigma"
    """Diffusion coefficient w over `scale`: sigma (the noise's weight), linear (time) or
    constant."""
    scale: Annotated[float, Field(ge=0)] = 2.0
    """Factor of the diffusion coefficient. 2 with form=sigma on a linear path is what SiT's and
    REPA's published samples use."""
    last_step: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Length of the last, deterministic step, with uniform spacing: the other steps are even down
    to this time. 0: all steps are even."""
    last: Last = "mean"
    """The last step: mean (the SDE's without noise, as in SiT and REPA; takes off twice the
    remaining noise where w = 2 sigma) or flow (the flow's, onto the predicted data)."""

    def times(self, path: Path) -> Tensor:
        """See `SamplerConfig.times`."""
        if self.spacing != "uniform" or self.shift != 1 or self.last_step == 0 or self.steps == 1:
            return super().times(path)
        even = torch.linspace(1, self.last_step, self.steps, dtype=torch.float64)
        return torch.cat([path.on_grid(even), torch.zeros(1, dtype=torch.float64)])

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
        return sde(
            denoise, z, self.times_from(path, start), path=path, constrain=constrain, noise=noise,
            form=self.form, scale=self.scale, last=self.last,
        )  # fmt: skip
