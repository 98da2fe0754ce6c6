"""``adaptive``: Dormand-Prince 5(4) with step size control along the flow (torchdiffeq).

The error of a step is judged by its worst sample, so the tolerance holds for each. The step sizes
are still the batch's: samples agree between batch sizes to the tolerance, not to the last digit.
The flow of a vp path has a kink at every trained step, which no tolerance below 1e-4 sees through.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise
from latentsmith.diffusion.paths import Path
from latentsmith.errors import UserError
from latentsmith.sampling.noise import StepNoise
from latentsmith.sampling.samplers.base import (
    SAMPLERS,
    Constrain,
    SamplerConfig,
    combine,
    held,
    predict,
    start,
)


def adaptive(
    denoise: Denoise,
    z: Tensor,
    times: Tensor,
    *,
    path: Path,
    noise: StepNoise | None = None,
    constrain: Constrain | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    most: int = 1000,
) -> Tensor:
    """Data from noise, see `latentsmith.sampling.samplers.base`.

    Args:
        times: integrated over from the first to the last. A last step onto pure data (σ = 0),
            where the noise is undefined, is one step of Euler's method.
        rtol, atol: allowed error of a step, relative and absolute.
        most: steps allowed.

    Raises:
        UserError: the tolerance is not reached, or the model gives NaN.
    """
    from torchdiffeq import odeint

    state, steps = start(z, times)

    def velocity(t: Tensor, state: Tensor) -> Tensor:
        at = t.detach().cpu().double()
        # inside, for the steps are torchdiffeq's: what the model sees is always constrained
        seen = predict(denoise, held(constrain, state, float(at)), float(at), z.dtype)
        return combine((float(path.d_alpha(at)), seen.data), (float(path.d_sigma(at)), seen.noise))

    def worst(error: Tensor) -> Tensor:
        return error.flatten(1).square().mean(1).max().sqrt()

    onto_data = float(path.sigma(times[-1:])) == 0
    ends = times[[0, -2 if onto_data else -1]]
    if ends[0] > ends[1]:
        options = {"norm": worst, "max_num_steps": most}
        try:
            seen = odeint(
                velocity, state, ends.to(state.device), rtol=rtol, atol=atol, method="dopri5",
                options=options,
            )  # fmt: skip
        except AssertionError as error:  # torchdiffeq's word for steps that shrink to nothing
            raise UserError(
                f"adaptive did not reach its tolerance ({error}): the model gives NaN, or raise "
                "rtol and atol, or last_step"
            ) from error
        state = torch.as_tensor(seen[-1])
    if onto_data:
        t, s = steps[-1]
        state = combine((1, state), (s - t, velocity(times[-2], state)))
    return held(constrain, state, float(times[-1])).to(z.dtype)


@SAMPLERS.register("adaptive", help="dopri5 with step size control on the probability flow")
@schema
class AdaptiveConfig(SamplerConfig):
    """As many steps as the tolerance needs."""

    kind: Literal["adaptive"] = "adaptive"
    rtol: Annotated[float, Field(gt=0)] = 1e-5
    """Allowed relative error of a step, of the worst sample. Errors add up: the result's is some
    ten times larger. Networks in half precision want 1e-3, their own rounding."""
    atol: Annotated[float, Field(gt=0)] = 1e-5
    """Allowed absolute error of a step."""
    last_step: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Time from which one step of Euler's method goes onto the data: what a network says about
    noise at t = 0 has no meaning."""
    most: Annotated[int, Field(ge=1)] = 1000
    """Steps allowed."""

    def times(self, path: Path) -> Tensor:
        """[1, last_step, 0]."""
        return torch.tensor([1, self.last_step, 0], dtype=torch.float64)

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
        return adaptive(
            denoise, z, self.times_from(path, start), path=path, constrain=constrain,
            rtol=self.rtol, atol=self.atol, most=self.most,
        )  # fmt: skip
