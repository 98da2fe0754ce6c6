"""Where samplers' steps lie."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from latentsmith.diffusion.flow import LinearPath
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.sampling.grid import shifted, time_grid

FLOW, VP = LinearPath(), VPPathConfig().build()


def indices(steps, **how):
    """Trained indices of a grid, without its end."""
    return (time_grid(steps, VP, **how)[:-1] * 1000 - 1).round().int().tolist()


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50, 333, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_timesteps(spacing, steps):
    theirs = DDIMScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    found = indices(steps, spacing=spacing)
    if (spacing, steps) == ("linspace", 1):
        assert theirs.timesteps.tolist() == [0] and found == [999]
    else:
        assert found == theirs.timesteps.tolist()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50, 333])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpm_timesteps(spacing, steps):
    theirs = DPMSolverMultistepScheduler(timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(steps)
    offset = 1 if spacing == "leading" else 0
    found = indices(steps, spacing=spacing, offset=offset, skip_last=True)
    assert found == theirs.timesteps.tolist()


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_flow_sigmas(shift):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(20)
    ours = time_grid(20, FLOW, spacing="linspace", shift=shift)
    torch.testing.assert_close(ours, theirs.sigmas.double(), rtol=0, atol=1e-6)


def test_uniform():
    assert time_grid(4, FLOW).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert time_grid(1, FLOW).tolist() == [1, 0]
    assert time_grid(4, FLOW).dtype == torch.float64
    assert time_grid(3, FLOW, shift=3).tolist() == pytest.approx([1, 6 / 7, 0.6, 0])
    # on trained steps only, and evenly spaced ones are diffusers' trailing where they fit
    assert torch.equal(time_grid(50, VP), time_grid(50, VP, spacing="trailing"))
    times = time_grid(30, VP, shift=2) * 1000
    torch.testing.assert_close(times, times.round())
    assert float(time_grid(10, VP, end="first")[-1]) == 1 / 1000


def test_a_grid_that_reaches_its_end_early_stops_there():
    for spacing in ("leading", "linspace"):  # index 0 is both the last step and the end
        times = time_grid(10, VP, spacing=spacing, end="first")
        assert len(times) == 10 and bool((times.diff() < 0).all())
        assert float(times[-1]) == 1 / 1000


def test_shift():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(shifted(t, 1.0), t)
    torch.testing.assert_close(shifted(shifted(t, 3.0), 1 / 3), t)
    assert shifted(t, 3.0)[0] == 0 and shifted(t, 3.0)[-1] == 1


@pytest.mark.parametrize(
    ("path", "how", "message"),
    [
        (FLOW, {"spacing": "leading"}, "this path has none: use spacing=uniform or linspace"),
        (FLOW, {"spacing": "trailing"}, "this path has none"),
        (FLOW, {"end": "first"}, "end=first is for vp paths"),
        (VP, {"spacing": "leading", "shift": 2.0}, "takes no shift: use spacing=uniform"),
        (VP, {"spacing": "leading", "offset": 500}, "offset=500 leads beyond"),
        (VP, {"spacing": "leading", "steps": 1001}, "1001 steps .*: the path has only 1000"),
        (VP, {"steps": 1001}, "1001 steps .*: the path has only 1000"),
        (VP, {"steps": 900, "shift": 3.0}, "900 steps with shift=3.0"),
    ],
)
def test_what_does_not_fit(path, how, message):
    with pytest.raises(UserError, match=message):
        time_grid(**({"steps": 10, "path": path} | how))
