"""What every sampler promises, and the few lines they share.

A sampler is a function

    sampler(denoise, z, times, *, path, noise=None, constrain=None, …) -> z

from noise ``z`` [B, …] at ``times[0]`` to data at ``times[-1]``. ``times`` float64 [S+1] on the
CPU decreases; all coefficients are computed from it in float64 once, as plain numbers, so a step is
the network and two or three sums. Where some of the data is known, ``constrain`` puts it back after
every step. The state is float32 (float64 when ``z`` is), the network sees
``z``'s dtype and times of the state's dtype. Nothing switches gradients off: wrap the call in
``torch.no_grad()`` unless you want them.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.denoiser import Denoise, Prediction
from latentsmith.diffusion.paths import Path
from latentsmith.errors import UserError
from latentsmith.registry import Registry
from latentsmith.sampling.grid import End, Spacing, time_grid
from latentsmith.sampling.noise import StepNoise

SAMPLERS = Registry("sampler", "latentsmith.sampling.samplers")

Constrain = Callable[[Tensor, float], Tensor]
"""(state [B, …], its time) → the state with what is known about it put in, of the same shape."""


@schema
class SamplerConfig:
    """Base of all sampler configs. Subclasses add ``kind: Literal[...]``, `times` and `sample`."""

    kind: str

    def times(self, path: Path) -> Tensor:
        """Where the steps lie, float64 [S + 1], decreasing. Raises UserError for settings that do
        not fit the path."""
        raise TypeError(f"{type(self).__name__} has no times()")

    def times_from(self, path: Path, start: float) -> Tensor:
        """`times` from ``start`` on, see `from_start`. Raises UserError as it does."""
        return from_start(self.times(path), path, start)

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
        """Data from noise, shape and dtype of ``z`` [B, …].

        Args:
            denoise: the model with condition and guidance in it.
            z: standard normal noise, see `latentsmith.sampling.noise.starting_noise`; with a
                ``start`` below 1, data noised to the first of `times_from`.
            path: the model's.
            noise: what stochastic samplers add, see `latentsmith.sampling.noise.NoiseSource`.
            start: time to start at; 1: the whole way, from noise.
            constrain: what is known of the state, put in after every step (``adaptive``: whenever
                the model is asked, and at the end).

        Raises:
            UserError: a grid that does not fit the path or the start, a stochastic sampler without
                ``noise``.
        """
        raise TypeError(f"{type(self).__name__} has no sample()")


@schema
class SteppedConfig(SamplerConfig):
    """Base of the samplers with a fixed number of steps."""

    steps: Annotated[int, Field(ge=1)] = 50
    """Steps from noise to data."""
    spacing: Spacing = "uniform"
    """Where the steps lie: uniform in time, or leading, trailing, linspace as diffusers' schedulers
    of the same names (trained indices of a vp path; linspace also for flow paths)."""
    shift: Annotated[float, Field(gt=0)] = 1.0
    """Above 1: more steps near noise, t -> shift t / (1 + (shift - 1) t). Larger latents want more
    (SD3 uses 3 at 1024 pixels). For uniform spacing, and linspace on flow paths."""
    offset: Annotated[int, Field(ge=0)] = 0
    """Added to the indices of leading spacing (diffusers' steps_offset; Stable Diffusion has 1)."""
    end: End = "data"
    """Where the last step ends: data (t = 0), or first, the least noise a vp path was trained on
    (diffusers' set_alpha_to_one=false, which Stable Diffusion has)."""

    def times(self, path: Path) -> Tensor:
        """See `SamplerConfig.times`."""
        return time_grid(
            self.steps, path,
            spacing=self.spacing, shift=self.shift, offset=self.offset, end=self.end,
        )  # fmt: skip


def from_start(times: Tensor, path: Path, start: float) -> Tensor:
    """The part of a grid that a run from ``start`` goes through: steps of the whole run, the first
    of them cut short (a cut to less than half a step is joined with the next: solvers of several
    steps would build on the difference of two almost equal points).

    Args:
        times: of the whole run, float64 [S + 1].
        path: says where a network was trained: on a vp path the start moves to the step at or
            after it.
        start: in (0, 1]; from the grid's first time on, 1 included, it is the grid itself.

    Returns:
        Times float64 [at most S + 1], the first (near) ``start``.

    Raises:
        UserError: a start outside (0, 1], or with no step of this grid below it.
    """
    if not 0 < start <= 1:
        raise UserError(
            f"start={start:g}: a sampler starts at a time above 0 (data) and at most 1 (noise)"
        )
    first = path.on_grid(torch.tensor([start], dtype=torch.float64))
    if start == 1 or first[0] >= times[0]:
        return times
    below = times[times < first[0]]
    if not len(below):
        raise UserError(
            f"start={start:g} lies below {float(times[-1]):g}, where this sampler ends: start "
            "later, or set sampler.end=data"
        )
    if len(below) > 1 and 2 * (first[0] - below[0]) < below[0] - below[1]:
        below = below[1:]
    return torch.cat([first, below])


def start(z: Tensor, times: Tensor) -> tuple[Tensor, list[tuple[float, float]]]:
    """The state, and the steps (t, s).

    Raises:
        UserError: times that do not decrease, or leave [0, 1].
    """
    steps = list(pairwise(times.tolist()))
    if not steps or any(s >= t for t, s in steps) or steps[0][0] > 1 or steps[-1][1] < 0:
        raise UserError(f"times must fall from at most 1 to at least 0, got {times.tolist()}")
    return (z if z.dtype == torch.float64 else z.float()), steps


def predict(denoise: Denoise, state: Tensor, t: float, dtype: torch.dtype) -> Prediction:
    """What the model sees in the state at time ``t``, in the state's dtype."""
    t_batch = torch.full((len(state),), t, dtype=state.dtype, device=state.device)
    seen = denoise(state.to(dtype), t_batch)
    return replace(seen, data=seen.data.to(state.dtype), noise=seen.noise.to(state.dtype))


def combine(first: tuple[float, Tensor], *others: tuple[float, Tensor]) -> Tensor:
    """Σ factor · tensor, one kernel a term; a tensor of its own."""
    out = first[1] * first[0]
    for factor, x in others:
        out.add_(x, alpha=factor)
    return out


def held(constrain: Constrain | None, state: Tensor, t: float) -> Tensor:
    """The state at time ``t`` with what is known about it, in its own dtype."""
    return state if constrain is None else constrain(state, t).to(state.dtype)


def needed(noise: StepNoise | None, sampler: str) -> StepNoise:
    """``noise``. Raises UserError when there is none."""
    if noise is None:
        raise UserError(
            f"{sampler} adds noise at every step: give noise=NoiseSource(seed, indices)"
        )
    return noise
