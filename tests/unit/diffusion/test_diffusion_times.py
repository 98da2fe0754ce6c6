"""Times have the distribution they are said to have."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from latentsmith.diffusion.flow import LinearPath
from latentsmith.diffusion.times import TimeConfig
from latentsmith.diffusion.vp import VPPathConfig

PATH = LinearPath()
N = 20_000


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def unshift(t, s):
    return t / (s - (s - 1) * t)


def cdf(config, s=1.0):
    """The distribution function, from SciPy's."""

    def base(t):
        if config.kind == "uniform":
            return t
        return stats.norm(config.mean, config.std).cdf([math.log(x / (1 - x)) for x in t])

    def limited(t):
        low, high = (
            end if end in (0.0, 1.0) else float(base([unshift(end, s)])[0])
            if config.kind != "uniform" else unshift(end, s)
            for end in (config.low, config.high)
        )  # fmt: skip
        return (base(unshift(t, s)) - low) / (high - low)

    return limited


CASES = [
    ({}, None, 1.0),
    ({"shift": 3.0}, None, 3.0),
    ({"kind": "logit_normal"}, None, 1.0),
    ({"kind": "logit_normal", "mean": 0.5, "std": 1.7, "shift": 0.4}, None, 0.4),
    ({"shift": "dimension"}, 16384, 2.0),
    ({"low": 0.1, "high": 0.7, "shift": 2.0}, None, 2.0),
    ({"kind": "logit_normal", "mean": -0.5, "low": 0.2, "high": 0.9, "shift": 2.0}, None, 2.0),
]


@pytest.mark.parametrize(("settings", "dimension", "s"), CASES)
def test_the_distribution(settings, dimension, s):
    config = TimeConfig(**settings)
    t = config.sample(N, rng(), PATH, dimension=dimension)
    assert t.shape == (N,) and t.dtype == torch.float32
    assert t.min() >= config.low - 1e-7 and t.max() <= config.high + 1e-7
    test = stats.kstest(t.double().numpy(), cdf(config, s))
    assert test.pvalue > 1e-3, test
    other = TimeConfig(**{**settings, "shift": 1.5 * s})  # the test can tell
    assert stats.kstest(t.double().numpy(), cdf(other, 1.5 * s)).pvalue < 1e-4


@pytest.mark.parametrize(("settings", "dimension", "s"), CASES)
def test_strata(settings, dimension, s):
    """One time in every n-th of probability, in no order."""
    config = TimeConfig(**settings, stratified=True)
    t = config.sample(64, rng(), PATH, dimension=dimension).double()
    place = torch.as_tensor(cdf(config, s)(t.sort().values.numpy())) * 64
    assert torch.equal(place.sub(1e-4).clamp(min=0).floor(), torch.arange(64).double())
    assert not torch.equal(t, t.sort().values)
    many = torch.cat([config.sample(16, rng(i), PATH, dimension=dimension) for i in range(500)])
    assert stats.kstest(many.double().numpy(), cdf(config, s)).pvalue > 1e-3


@pytest.mark.parametrize(("settings", "dimension", "s"), CASES)
def test_quantiles_invert_the_distribution(settings, dimension, s):
    config = TimeConfig(**settings)
    u = torch.linspace(0.001, 0.999, 77, dtype=torch.float64)
    t = config.quantile(u, dimension=dimension)
    torch.testing.assert_close(torch.as_tensor(cdf(config, s)(t.numpy())), u, rtol=1e-9, atol=1e-9)
    ends = config.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64), dimension=dimension)
    torch.testing.assert_close(ends.tolist(), [config.low, config.high])


def test_shift_as_sd3_writes_it():
    """Equation 23 with m/n = 4 numbers to one."""
    config = TimeConfig(shift="dimension")
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    s = math.sqrt(16384 / 4096)
    torch.testing.assert_close(
        config.quantile(u, dimension=16384), s * u / (1 + (s - 1) * u), rtol=1e-12, atol=0
    )
    assert config.factor(4096) == 1
    with pytest.raises(ValueError, match="dimension is not given"):
        config.factor(None)


def test_discrete_paths_get_their_steps_evenly():
    path = VPPathConfig(timesteps=10, beta_end=0.3).build()
    t = TimeConfig().sample(N, rng(), path)
    i = path.index(t)
    assert torch.equal(path.time(i).float(), t)
    assert stats.chisquare(torch.bincount(i, minlength=10).numpy()).pvalue > 1e-3


def test_draws_are_the_generators():
    for config in (TimeConfig(), TimeConfig(kind="logit_normal", stratified=True)):
        first, again, other = (config.sample(9, rng(seed), PATH) for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_settings_are_checked():
    adapter = TypeAdapter(TimeConfig)
    assert adapter.validate_python({"shift": "dimension"}).shift == "dimension"
    assert adapter.validate_python({"shift": 2}).shift == 2.0
    for bad in ({"shift": 0}, {"shift": "large"}, {"std": 0}, {"kind": "beta"}, {"high": 1.1}):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
    with pytest.raises(ValueError, match=r"low 0.5 must be below times.high 0.5"):
        TimeConfig(low=0.5, high=0.5)
