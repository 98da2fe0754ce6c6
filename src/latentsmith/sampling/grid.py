"""Time grids: where a sampler's steps lie.

Times fall from 1 (noise) to 0 (data). On a vp path with T trained steps, index i is t = (i + 1)/T,
so pure data, diffusers' "previous timestep below 0", is t = 0, and the first trained step is 1/T.
"""

from typing import Literal

import torch
from torch import Tensor

from latentsmith.diffusion.paths import Path
from latentsmith.diffusion.vp import VPPath
from latentsmith.errors import UserError

Spacing = Literal["uniform", "leading", "trailing", "linspace"]
End = Literal["data", "first"]

FLOW_STEPS = 1000
"""What diffusers' flow schedulers call num_train_timesteps: only their lowest time, 1/1000, depends
on it."""


def shifted(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s − 1) t): 0 and 1 stay, shift > 1 moves times towards noise (Esser et al. 2024,
    arXiv 2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def time_grid(
    steps: int,
    path: Path,
    *,
    spacing: Spacing = "uniform",
    shift: float = 1.0,
    offset: int = 0,
    end: End = "data",
    skip_last: bool = False,
) -> Tensor:
    """Times float64 [steps + 1], decreasing from (near) 1 to the end; one fewer where end=first is
    a point of the grid already.

    ``uniform``: t = 1 − k/S, shifted; on a vp path, the trained step at or before each. What
    diffusers' flow pipelines pass as ``sigmas``.
    ``linspace`` on a flow path: S times from 1 to 1/1000, then 0, what diffusers' flow schedulers
    take when no ``sigmas`` are given (their shift falls on the lowest time twice, so here too).
    ``leading``, ``trailing``, ``linspace`` on a vp path: indices as in Lin et al. 2024 (arXiv
    2305.08891), table 2, and diffusers. Each step goes from one grid point to the next;
    diffusers' DDIM and DDPM always go T//S down, which is the same for leading, and for
    trailing when S divides T, but not for linspace.

    Args:
        steps: S.
        path: the model's; its trained steps count, where it has any.
        spacing, shift, offset, end: see `latentsmith.sampling.samplers.SamplerConfig`.
        skip_last: leading and linspace on a vp path: the grid of S + 1 points without its lowest,
            as diffusers' DPMSolverMultistepScheduler spaces them.

    Raises:
        UserError: settings that do not fit each other or the path.
    """
    trained = path.timesteps if isinstance(path, VPPath) else None
    if end == "first" and trained is None:
        raise UserError("end=first is for vp paths, which have a first trained step: use end=data")
    if spacing == "uniform":
        even = 1 - torch.arange(steps, dtype=torch.float64) / steps
        times = path.on_grid(shifted(even, shift))
    elif trained is not None:
        if shift != 1:
            raise UserError(f"spacing={spacing} on a vp path takes no shift: use spacing=uniform")
        times = _indices(steps, trained, spacing, offset, skip_last).add(1) / trained
    elif spacing == "linspace":
        lowest = shifted(torch.tensor(1 / FLOW_STEPS, dtype=torch.float64), shift)
        times = shifted(torch.linspace(1, float(lowest), steps, dtype=torch.float64), shift)
    else:
        raise UserError(
            f"spacing={spacing} counts the trained steps of a vp path, this path has none: "
            "use spacing=uniform or linspace"
        )
    last = 1 / trained if end == "first" and trained is not None else 0.0
    times = times[times > last]
    if bool((times.diff() >= 0).any()):
        raise UserError(
            f"{steps} steps with shift={shift}: the path has only {trained}: take fewer"
        )
    return torch.cat([times, torch.tensor([last], dtype=torch.float64)])


def _indices(steps: int, trained: int, spacing: Spacing, offset: int, skip_last: bool) -> Tensor:
    """Trained indices, decreasing, float64 whole numbers."""
    if steps + skip_last > trained:
        raise UserError(f"{steps} steps with spacing={spacing}: the path has only {trained}")
    if spacing == "trailing":  # reaches the noisiest index, and goes down evenly from there
        down = torch.arange(steps, dtype=torch.float64) * (trained / steps)
        return (trained - down).round() - 1
    points = steps + skip_last
    if spacing == "leading":
        up = torch.arange(points, dtype=torch.float64) * (trained // points) + offset
    elif points == 1:  # diffusers' own single point is the least noisy step: of no use
        up = torch.tensor([trained - 1], dtype=torch.float64)
    else:  # not torch.linspace, which rounds halves elsewhere than NumPy's
        up = (torch.arange(points, dtype=torch.float64) * ((trained - 1) / (points - 1))).round()
    if up[-1] >= trained:
        raise UserError(f"offset={offset} leads beyond the path's {trained} steps: lower it")
    return up.flip(0)[:steps]
