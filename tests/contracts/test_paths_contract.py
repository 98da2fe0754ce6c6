"""What every registered path promises."""

import pickle

import pytest
import torch

from latentsmith.diffusion.paths import PATHS, Path, PathConfig

SETTINGS = {
    "vp": [
        {},
        {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"schedule": "cosine"},
        {"zero_terminal_snr": True},
        {"timesteps": 7, "beta_end": 0.9},
    ]
}
"""Paths to look at besides the default one."""

CASES = [(name, kw) for name in PATHS.names() for kw in SETTINGS.get(name, [{}])]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {case[1]}")
def path(request):
    name, settings = request.param
    return PATHS[name].config(**settings).build()


def inside(path):
    """Times between the steps of a discrete path, and well inside (0, 1)."""
    steps = getattr(path, "timesteps", 1000)
    cells = torch.linspace(0, steps - 1, min(steps, 101)).floor().double()
    return (cells + 0.37) / steps


@pytest.mark.parametrize("name", PATHS.names())
def test_config(name):
    entry = PATHS[name]
    config = entry.config()
    assert isinstance(config, PathConfig) and config.kind == name
    assert entry.help and "\n" not in entry.help
    assert isinstance(config.build(), Path)


def test_from_data_to_noise(path):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = path.alpha(ends), path.sigma(ends)
    assert alpha[0] == 1 and sigma[0] == 0
    assert alpha[1] < 0.1 and abs(sigma[1] - 1) < 0.01
    assert path.ends == (float(alpha[1]), float(sigma[0]))


def test_the_signal_falls_and_the_noise_rises(path):
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    assert (path.alpha(t).diff() < 0).all()
    assert (path.sigma(t).diff() > 0).all()


def test_derivatives_are_those_of_the_functions(path):
    t = inside(path).requires_grad_()
    for function, derivative in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        (by_autograd,) = torch.autograd.grad(function(t).sum(), t)
        torch.testing.assert_close(derivative(t.detach()), by_autograd, rtol=1e-12, atol=1e-12)
        h = 1e-7
        by_difference = (function(t + h) - function(t - h)).detach() / (2 * h)
        torch.testing.assert_close(derivative(t.detach()), by_difference, rtol=1e-6, atol=1e-6)


def test_shapes_and_dtypes(path):
    for dtype in (torch.float32, torch.float64):
        t = torch.rand(2, 3, dtype=dtype)
        before = t.clone()
        for function in (path.alpha, path.sigma, path.d_alpha, path.d_sigma, path.on_grid):
            result = function(t)
            assert result.shape == t.shape and result.dtype == dtype
            assert result.isfinite().all()
        assert torch.equal(t, before)


def test_float32_times_give_float64_numbers(path):
    """Up to what the rounding of the time itself does."""
    t = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    for function in (path.alpha, path.sigma):
        exact = function(t.double())
        torch.testing.assert_close(function(t).double(), exact, rtol=1e-6, atol=1e-7)


def test_mix(path):
    rng = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 5, 3, 2, 2, generator=rng, dtype=torch.float64)
    t = torch.rand(5, generator=rng, dtype=torch.float64)
    z = path.mix(data, noise, t)
    for b in range(5):
        want = path.alpha(t[b]) * data[b] + path.sigma(t[b]) * noise[b]
        torch.testing.assert_close(z[b], want, rtol=1e-14, atol=1e-14)
    assert torch.equal(path.mix(data, noise, torch.zeros(5)), data)
    assert path.mix(data.float(), noise.float(), t.float()).dtype == torch.float32


def test_the_grid_is_where_it_leads(path):
    t = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = path.on_grid(t)
    assert torch.equal(path.on_grid(there), there)
    assert (there >= t - 1e-6).all() and (there <= 1).all()


def test_it_can_be_sent_to_another_process(path):
    t = torch.rand(4)
    assert torch.equal(pickle.loads(pickle.dumps(path)).alpha(t), path.alpha(t))
