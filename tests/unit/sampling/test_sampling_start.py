"""Samplers that start on the way, and samplers that are held to what is known."""

import pytest
import torch

from helpers.flows import Gaussian
from latentsmith.diffusion.flow import GVPPath, LinearPath
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.sampling.noise import NoiseSource, starting_noise
from latentsmith.sampling.samplers import SAMPLERS
from latentsmith.sampling.samplers.adaptive import AdaptiveConfig
from latentsmith.sampling.samplers.base import SteppedConfig, from_start
from latentsmith.sampling.samplers.ddim import DdimConfig
from latentsmith.sampling.samplers.euler import EulerConfig

NAMES = SAMPLERS.names()
PATHS = {"linear": LinearPath(), "gvp": GVPPath(), "vp": VPPathConfig().build()}
FLOW = ["adaptive", "ddim", "dpmpp_2m", "euler", "heun"]
"""Deterministic ones, which follow the probability flow."""


def sampler(name, steps=8):
    config = SAMPLERS[name].config
    return config(steps=steps) if issubclass(config, SteppedConfig) else config()


def run(config, path, z, **how):
    noise = NoiseSource(0, range(len(z)))
    return config.sample(Gaussian(path), z, path=path, noise=noise, **how)


def mixed(path, data, noise, t):
    return path.mix(data, noise, torch.full((len(data),), t, dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_from_one_on_is_the_whole_way(name, path):
    path, config = PATHS[path], sampler(name)
    assert torch.equal(config.times_from(path, 1.0), config.times(path))
    z = starting_noise(0, range(3), (2, 2)).double()
    assert torch.equal(run(config, path, z, start=1.0), run(config, path, z))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FLOW)
def test_from_a_time_on_along_the_exact_flow(name, path):
    path, config = PATHS[path], sampler(name, steps=400)
    start = float(config.times_from(path, 0.55)[0])
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    found = run(config, path, z, start=0.55)
    torch.testing.assert_close(found, Gaussian(path).flow(z, start, 0), rtol=0, atol=0.02)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_noised_data_come_back_with_the_right_distribution(name, path):
    path, config, count = PATHS[path], sampler(name, steps=100), 4000
    rng = torch.Generator().manual_seed(5)
    data = 0.7 + 0.5 * torch.randn(count, 1, generator=rng, dtype=torch.float64)
    start = float(config.times_from(path, 0.3)[0])
    z = mixed(path, data, starting_noise(1, range(count), (1,)).double(), start)
    found = run(config, path, z, start=0.3)
    assert float(found.mean()) == pytest.approx(0.7, abs=0.05)
    assert float(found.std()) == pytest.approx(0.5, abs=0.06)
    kept = float(torch.corrcoef(torch.stack([found[:, 0], data[:, 0]]))[0, 1])
    assert 0.1 < kept < 0.99, "something of the data is kept, and something is new"


def test_the_grid_is_cut_and_its_first_step_is_not_too_short():
    path = LinearPath()
    grid = EulerConfig(steps=10).times(path)  # 1, 0.9 … 0
    assert from_start(grid, path, 0.66).tolist() == pytest.approx([0.66, *grid[4:].tolist()])
    joined = from_start(grid, path, 0.63).tolist()  # 0.03 to 0.6 is less than half a step
    assert joined == pytest.approx([0.63, *grid[5:].tolist()])
    on = from_start(grid, path, 0.6)
    assert len(on) == 7 and float(on[0]) == 0.6
    assert from_start(grid, path, 0.02).tolist() == [0.02, 0.0], "the last step is never joined"
    late = torch.tensor([0.8, 0.4, 0.0], dtype=torch.float64)
    assert from_start(late, path, 0.9) is late, "nothing above the grid"
    short = torch.tensor([1.0, 0.95, 0.5, 0.0], dtype=torch.float64)
    assert from_start(short, path, 1.0) is short, "a first step that is short is its own"


def test_on_a_vp_path_a_start_is_a_trained_step():
    path = PATHS["vp"]
    times = DdimConfig(steps=10).times_from(path, 0.50001)
    assert float(times[0]) == pytest.approx(0.501) and torch.equal(
        path.on_grid(times[:1]), times[:1]
    )
    assert bool((times.diff() < 0).all())
    stays = DdimConfig(steps=10, end="first").times_from(path, 0.5)
    assert float(stays[-1]) == pytest.approx(0.001)


@pytest.mark.parametrize("start", [0.0, -0.5, 1.2])
def test_starts_outside(start):
    with pytest.raises(UserError, match=r"above 0 \(data\) and at most 1 \(noise\)"):
        EulerConfig(steps=4).times_from(LinearPath(), start)


def test_a_start_below_the_end():
    with pytest.raises(UserError, match=r"start=0.0005 lies below 0.001, where this sampler ends"):
        DdimConfig(steps=10, end="first").times_from(PATHS["vp"], 0.0005)


def test_adaptive_from_near_data_is_one_step():
    assert AdaptiveConfig().times_from(LinearPath(), 0.0012).tolist() == [0.0012, 0.0]
    assert AdaptiveConfig().times_from(LinearPath(), 0.6).tolist() == [0.6, 1e-3, 0.0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_known_is_held(name, path):
    """Coordinates are independent: the known one ends as it is, the other as without it."""
    path, config = PATHS[path], sampler(name)
    z, known = starting_noise(0, range(4), (2,)).double(), torch.tensor([9.0, -3.0, 0.0, 1.0])
    noise, seen = starting_noise(8, range(4), (1,))[:, 0].double(), []

    def constrain(state, t):
        seen.append(t)
        held = state.clone()
        held[:, 0] = mixed(path, known.double(), noise, t)
        return held

    found = run(config, path, z, constrain=constrain)
    assert torch.equal(found[:, 0], known.double())
    free = run(config, path, z)
    # adaptive's step sizes look at all coordinates
    atol = 1e-3 if name == "adaptive" else 0
    torch.testing.assert_close(found[:, 1], free[:, 1], rtol=0, atol=atol)
    if name != "adaptive":
        assert seen == config.times(path)[1:].tolist(), "once after every step, at its time"


@pytest.mark.parametrize("name", NAMES)
def test_the_model_sees_what_is_known(name):
    path, config, model = LinearPath(), sampler(name), Gaussian(LinearPath())
    worst = []

    def denoise(z, t):
        if float(t[0]) < 1 and name != "heun":  # heun looks ahead within a step
            worst.append(float((z[:, 0] - 5).abs().max()))
        return model(z, t)

    def constrain(state, t):
        return torch.cat([torch.full_like(state[:, :1], 5), state[:, 1:]], 1)

    z = starting_noise(0, range(4), (2,)).double()
    config.sample(denoise, z, path=path, noise=NoiseSource(0, range(4)), constrain=constrain)
    assert max(worst, default=0) == 0
