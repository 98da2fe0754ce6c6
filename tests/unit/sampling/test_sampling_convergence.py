"""Samplers on normal data, whose denoiser, flow and marginals are known exactly, in float64."""

import math

import pytest
import torch

from helpers.flows import Gaussian
from latentsmith.diffusion.flow import GVPPath, LinearPath
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.sampling.samplers.adaptive import AdaptiveConfig, adaptive
from latentsmith.sampling.samplers.ddim import ddim
from latentsmith.sampling.samplers.ddpm import DdpmConfig, ddpm
from latentsmith.sampling.samplers.dpmpp_2m import dpmpp_2m
from latentsmith.sampling.samplers.euler import euler
from latentsmith.sampling.samplers.heun import heun
from latentsmith.sampling.samplers.sde import SdeConfig, sde

Z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
PATHS = {"linear": LinearPath(), "gvp": GVPPath()}


def error(sampler, path, steps, last):
    model = Gaussian(path)
    times = torch.linspace(1, last, steps + 1, dtype=torch.float64)
    found = sampler(model, Z, times, path=path)
    return float((found - model.flow(Z, 1, last)).abs().max()), model.calls


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("sampler", "order", "last", "forwards"),
    [
        (euler, 1, 0.0, 64),
        (ddim, 1, 0.0, 64),
        (heun, 2, 0.0, 127),
        (heun, 2, 0.02, 128),
        (dpmpp_2m, 2, 0.02, 64),
    ],
)
def test_order(sampler, order, last, forwards, name):
    (coarse, calls), (fine, _) = (error(sampler, PATHS[name], n, last) for n in (64, 128))
    assert calls == forwards
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert fine < 0.02**order * 5


def test_dpmpp_2m_is_first_order_where_it_must_be():
    path = LinearPath()
    model = Gaussian(path)
    times = torch.linspace(1, 0.1, 4, dtype=torch.float64)
    few = dpmpp_2m(model, Z, times, path=path)
    second = dpmpp_2m(model, Z, times, path=path, lower_order_final=False)
    # 1 -> 0.7 starts at alpha = 0, 0.7 -> 0.4 has no finite step before it: both are DDIM's
    first = ddim(model, Z, times, path=path)
    torch.testing.assert_close(few, first)
    assert float((second - first).abs().max()) > 1e-3
    onto_data = torch.tensor([0.5, 0.3, 0.1, 0.0], dtype=torch.float64)
    assert dpmpp_2m(model, Z, onto_data, path=path, lower_order_final=False).isfinite().all()


@pytest.mark.parametrize("name", PATHS)
def test_adaptive_keeps_its_tolerance(name):
    model = Gaussian(PATHS[name])
    times = torch.tensor([1, 0.05], dtype=torch.float64)
    calls = []
    for tolerance in (1e-5, 1e-8):
        model.calls = 0
        found = adaptive(model, Z, times, path=model.path, rtol=tolerance, atol=tolerance)
        assert float((found - model.flow(Z, 1, 0.05)).abs().max()) < 10 * tolerance
        calls.append(model.calls)
    assert calls[0] < calls[1]


def test_adaptive_on_a_path_with_kinks():
    model = Gaussian(VPPathConfig().build())
    found = AdaptiveConfig(last_step=0.05).times(model.path)[:2]
    found = adaptive(model, Z, found, path=model.path)
    torch.testing.assert_close(found, model.flow(Z, 1, 0.05), rtol=0, atol=1e-3)


def test_adaptive_judges_by_the_worst_sample():
    """One sample that moves among many that stand still is still right."""
    model = Gaussian(LinearPath())
    times = torch.tensor([1, 0.05], dtype=torch.float64)
    still = torch.full((400, 1), 0.0, dtype=torch.float64)
    still[7] = 2
    found = adaptive(model, still, times, path=model.path, rtol=1e-6, atol=1e-6)
    alone = adaptive(model, still[7:8], times, path=model.path, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[7:8], alone, rtol=0, atol=1e-7)


def test_adaptive_ends_on_data_and_says_when_it_cannot():
    path = LinearPath()
    model = Gaussian(path)
    config = AdaptiveConfig(rtol=1e-6, atol=1e-6, last_step=1e-4)
    found = config.sample(model, Z, path=path)
    torch.testing.assert_close(found, model.flow(Z, 1, 0), rtol=0, atol=1e-5)
    one = adaptive(model, Z, torch.tensor([1, 0], dtype=torch.float64), path=path)
    torch.testing.assert_close(one, euler(model, Z, torch.tensor([1, 0.0]), path=path))
    with pytest.raises(UserError, match="adaptive did not reach its tolerance"):
        AdaptiveConfig(rtol=1e-12, atol=1e-12, most=3).sample(model, Z, path=path)
    torch.testing.assert_close(Gaussian(path).flow(Z, 1, 0), 0.7 + 0.5 * Z)  # the oracle itself


class OneAtATime:
    """Noise 1 in row 2 + k at step k, else 0."""

    def __call__(self, step, shape):
        noise = torch.zeros(self.rows, *shape)
        noise[2 + step] = 1
        return noise

    def __init__(self, steps):
        self.rows = 2 + steps


def moments(sampler, path, times, **how):
    """Exact mean and standard deviation of what a sampler makes of normal noise: on normal data
    it is z → c + a z + Σ b_k n_k, and c, a, b_k are read off."""
    steps = len(times) - 1
    z = torch.zeros(2 + steps, 1, dtype=torch.float64)
    z[1] = 1
    out = sampler(Gaussian(path), z, times, path=path, noise=OneAtATime(steps), **how)[:, 0]
    return float(out[0]), float((out[1:] - out[0]).square().sum().sqrt())


STOCHASTIC = [
    (ddpm, {"variance": "small"}),
    (ddpm, {"variance": "large"}),
    (ddim, {"eta": 0.5}),
    (ddim, {"eta": 1.0}),
    *((sde, {"form": f, "scale": s}) for f in ("sigma", "linear", "constant") for s in (0.5, 2)),
]


@pytest.mark.parametrize("name", [*PATHS, "vp"])
@pytest.mark.parametrize(("sampler", "how"), STOCHASTIC)
def test_marginals(sampler, how, name):
    """At t = 0.1 the result has the mean and spread of z_t, better with more steps."""
    path = PATHS[name] if name in PATHS else VPPathConfig(timesteps=2000).build()
    t = torch.tensor(0.1, dtype=torch.float64)
    mean = 0.7 * float(path.alpha(t))
    std = math.hypot(0.5 * float(path.alpha(t)), float(path.sigma(t)))
    off = []
    for steps in (100, 200):
        times = torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)
        found = moments(
            sampler, path, times, **(how | ({"last": "flow"} if sampler is sde else {}))
        )
        off.append(max(abs(found[0] - mean), abs(found[1] - std)))
    # vp starts from standard normal noise where z_1 is only nearly that: 4e-5 in alpha
    assert off[1] < 0.03 and (off[1] < 0.6 * off[0] or off[1] < 1e-3)


def test_ddpm_is_ddim_with_all_the_noise():
    path, times = LinearPath(), torch.linspace(1, 0, 9, dtype=torch.float64)
    a = moments(ddpm, path, times)
    assert a == pytest.approx(moments(ddim, path, times, eta=1.0))
    assert a != pytest.approx(moments(ddpm, path, times, variance="large"))


def test_sde_without_noise_is_euler():
    path, times = GVPPath(), torch.linspace(1, 0, 9, dtype=torch.float64)
    model = Gaussian(path)
    still = sde(model, Z, times, path=path, noise=OneAtATime(8), scale=0.0)
    torch.testing.assert_close(still, euler(model, Z, times, path=path))


def test_sde_steps_by_the_letter():
    """The SDE written out: dz = (v - w s / 2) dt + sqrt(w |dt|) n, nothing added at the end."""
    path, model = LinearPath(), Gaussian(LinearPath())
    config = SdeConfig(steps=5, form="linear", scale=2.0)
    times = config.times(path)
    assert times.tolist() == pytest.approx([1, 0.76, 0.52, 0.28, 0.04, 0])
    noise = torch.randn(5, 5, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for last in ("mean", "flow"):
        z = Z
        for k in range(5):
            t, dt = times[k], times[k + 1] - times[k]
            seen = model(z, t.expand(5))
            w = 0 if (k, last) == (4, "flow") else 2 * t
            z = z + (seen.noise - seen.data + w / 2 * seen.noise / t) * dt
            if k < 4:
                z = z + (w * dt.abs()).sqrt() * noise[k]
        config.last = last
        found = config.sample(model, Z, path=path, noise=lambda k, _: noise[k])
        torch.testing.assert_close(found, z)
    assert SdeConfig(steps=5, last_step=0.0).times(path).tolist() == pytest.approx(
        [1, 0.8, 0.6, 0.4, 0.2, 0]
    )


def test_noise_is_asked_for():
    path, model = LinearPath(), Gaussian(LinearPath())
    for config in (DdpmConfig(steps=2), SdeConfig(steps=2)):
        with pytest.raises(UserError, match=f"{config.kind} adds noise at every step: give noise"):
            config.sample(model, Z, path=path)


@pytest.mark.parametrize("times", [[0.5], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.2, 0.0], [1, -0.1]])
def test_times_must_fall(times):
    path = LinearPath()
    with pytest.raises(UserError, match="times must fall"):
        euler(Gaussian(path), Z, torch.tensor(times, dtype=torch.float64), path=path)
