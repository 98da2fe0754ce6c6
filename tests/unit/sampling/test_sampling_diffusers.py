"""Our samplers against diffusers' schedulers, on the same network, grid and noise."""

from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from helpers.flows import SHAPE, Network, column
from latentsmith.diffusion.denoiser import Prediction
from latentsmith.diffusion.flow import LinearPath
from latentsmith.diffusion.vp import VPPath
from latentsmith.errors import UserError
from latentsmith.sampling.noise import NoiseSource, starting_noise
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.samplers.ddpm import DdpmConfig
from latentsmith.sampling.samplers.dpmpp_2m import Dpmpp2mConfig
from latentsmith.sampling.samplers.euler import EulerConfig
from latentsmith.sampling.samplers.heun import HeunConfig

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers
NETWORK = Network()
LINE = LinearPath()
FRESH = NoiseSource(3, range(3))
SAME = {"rtol": 1e-4, "atol": 1e-4}
NEAR = {"rtol": 1e-9, "atol": 1e-9}


def predicting_noise(path):
    """The network predicts ε, and sees t in [0, 1]."""

    def denoise(z, t):
        eps = NETWORK(z, t)
        a, s = column(path.alpha(t), z), column(path.sigma(t), z)
        return Prediction((z - s * eps) / a, eps, t, path)

    return denoise


def in_double(scheduler):
    """diffusers computes in the precision of its table: in float32 it is the worse of the two."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = getattr(
        scheduler, "final_alpha_cumprod", torch.ones(())
    ).double()
    scheduler.one = torch.ones((), dtype=torch.float64)


def by_scheduler(scheduler, steps, network=NETWORK, **how):
    """diffusers' loop; fresh noise k from the same source as ours."""
    z = starting_noise(0, range(3), SHAPE).double()
    scheduler.set_timesteps(steps)
    trained = scheduler.config.num_train_timesteps
    for k, i in enumerate(scheduler.timesteps):
        t = torch.full((3,), (float(i) + 1) / trained, dtype=torch.float64)
        more = {name: draw(k) for name, draw in how.items()}
        z = scheduler.step(network(z, t), i, z, return_dict=False, **more)[0]
    return z


def by_ours(config, path, **how):
    z = starting_noise(0, range(3), SHAPE).double()
    return config.sample(predicting_noise(path), z, path=path, **how)


def fresh(k):
    return FRESH(k, SHAPE).double()


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    ("spacing", "steps", "offset", "end"),
    [
        ("leading", 20, 0, "data"),
        ("leading", 30, 1, "first"),  # Stable Diffusion's; 200 is no multiple of 30
        ("trailing", 20, 0, "data"),
        ("linspace", 200, 0, "data"),  # every step: theirs goes elsewhere otherwise
    ],
)
def test_ddim(spacing, steps, offset, end, eta):
    scheduler = DDIMScheduler(
        200, **STABLE, clip_sample=False, timestep_spacing=spacing, steps_offset=offset,
        set_alpha_to_one=end == "data",
    )  # fmt: skip
    in_double(scheduler)
    how = {"eta": lambda _: eta} | ({"variance_noise": fresh} if eta else {})
    theirs = by_scheduler(scheduler, steps, **how)
    config = DdimConfig(steps=steps, spacing=spacing, offset=offset, end=end, eta=eta)
    ours = by_ours(config, VPPath(scheduler.alphas_cumprod), noise=FRESH)
    torch.testing.assert_close(ours, theirs, **NEAR)


def test_ddim_from_zero_terminal_snr():
    scheduler = DDIMScheduler(
        200, **STABLE, clip_sample=False, timestep_spacing="trailing", rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
    )  # fmt: skip
    in_double(scheduler)
    path = VPPath(scheduler.alphas_cumprod)
    ours = DdimConfig(steps=20, spacing="trailing").sample(
        lambda z, t: Prediction.of(NETWORK(z, t), z, t, path, "v"),
        starting_noise(0, range(3), SHAPE).double(),
        path=path,
    )
    torch.testing.assert_close(ours, by_scheduler(scheduler, 20), **NEAR)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddpm(spacing, variance, monkeypatch):
    scheduler = DDPMScheduler(
        200, **LINEAR, clip_sample=False, timestep_spacing=spacing,
        variance_type=f"fixed_{variance}",
    )  # fmt: skip
    in_double(scheduler)
    # with fewer trailing steps, theirs adds "large" noise to its result
    steps = 200 if (spacing, variance) == ("trailing", "large") else 50
    # the scheduler draws by itself: hand it our noise
    count = iter(range(steps))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: fresh(next(count))
    )
    theirs = by_scheduler(scheduler, steps)
    config = DdpmConfig(steps=steps, spacing=spacing, variance=variance)
    ours = by_ours(config, VPPath(scheduler.alphas_cumprod), noise=FRESH)
    torch.testing.assert_close(ours, theirs, **NEAR)


def test_ddpm_with_learned_variance(monkeypatch):
    scheduler = DDPMScheduler(200, **LINEAR, clip_sample=False, variance_type="learned_range")
    in_double(scheduler)
    count = iter(range(20))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: fresh(next(count))
    )
    other, path = Network(1), VPPath(scheduler.alphas_cumprod)

    def both(z, t):
        return torch.cat([NETWORK(z, t), other(z, t)], 1)

    def denoise(z, t):
        return replace(predicting_noise(path)(z, t), variance=other(z, t))

    theirs = by_scheduler(scheduler, 20, network=both)
    z = starting_noise(0, range(3), SHAPE).double()
    config = DdpmConfig(steps=20, spacing="leading", variance="learned")
    ours = config.sample(denoise, z, path=path, noise=FRESH)
    torch.testing.assert_close(ours, theirs, **NEAR)
    with pytest.raises(UserError, match="variance=learned is for networks"):
        config.sample(predicting_noise(path), z, path=path, noise=FRESH)


@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("end", ["data", "first"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_dpmpp_2m(spacing, end, steps):
    scheduler = DPMSolverMultistepScheduler(
        **STABLE,
        timestep_spacing=spacing,
        final_sigmas_type="zero" if end == "data" else "sigma_min",
    )
    theirs = by_scheduler(scheduler, steps)
    ours = by_ours(
        Dpmpp2mConfig(steps=steps, spacing=spacing, end=end), VPPath(scheduler.alphas_cumprod)
    )
    torch.testing.assert_close(ours, theirs, **SAME)


def predicting_velocity(z, t):
    v = NETWORK(z, t)
    t = column(t, z)
    return Prediction(z - t * v, z + (1 - t) * v, t.flatten(), LINE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("spacing", ["linspace", "uniform"])
def test_euler_on_a_flow(spacing, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    if spacing == "linspace":
        scheduler.set_timesteps(12)
    else:  # what the pipelines of SD3 and Flux do
        scheduler.set_timesteps(sigmas=[1 - k / 12 for k in range(12)])
    theirs = starting_noise(0, range(3), SHAPE)
    for i in scheduler.timesteps:
        v = NETWORK(theirs, torch.full((3,), float(i) / 1000))
        theirs = scheduler.step(v, i, theirs, return_dict=False)[0]
    ours = EulerConfig(steps=12, spacing=spacing, shift=shift).sample(
        predicting_velocity, starting_noise(0, range(3), SHAPE), path=LINE
    )
    torch.testing.assert_close(ours, theirs, **SAME)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_heun_on_a_flow(shift):
    scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    theirs = starting_noise(0, range(3), SHAPE)
    for i in scheduler.timesteps:
        v = NETWORK(theirs, torch.full((3,), float(i) / 1000))
        theirs = scheduler.step(v, i, theirs, return_dict=False)[0]
    ours = HeunConfig(steps=12, spacing="linspace", shift=shift).sample(
        predicting_velocity, starting_noise(0, range(3), SHAPE), path=LINE
    )
    torch.testing.assert_close(ours, theirs, **SAME)
