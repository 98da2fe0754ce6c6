"""The learned variance's bound against a loop over the paper's equations."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from latentsmith.diffusion.variational import bound, log_variance
from latentsmith.diffusion.vp import VPPathConfig

CONFIG = VPPathConfig(timesteps=8, beta_start=0.01, beta_end=0.4)
STEPS = [0, 1, 4, 7]


def example():
    rng = torch.Generator().manual_seed(0)
    x, e, guess, raw = torch.randn(4, len(STEPS), 2, 2, generator=rng, dtype=torch.float64)
    path = CONFIG.build()
    t = path.time(torch.tensor(STEPS))
    return path, x, guess, raw, path.mix(x, e, t), t


def naive(x, guess, raw, z, i):
    """L_i of one sample in bits per number, times T; Nichol & Dhariwal 2021, one number at a
    time."""
    T = CONFIG.timesteps
    step = (CONFIG.beta_end - CONFIG.beta_start) / (T - 1)
    beta = [CONFIG.beta_start + step * k for k in range(T)]
    bar = [math.prod(1 - b for b in beta[: k + 1]) for k in range(T)]

    def tilde(k):
        return beta[k] * (1 - bar[k - 1]) / (1 - bar[k])

    before = bar[i - 1] if i > 0 else 1.0
    small = tilde(max(i, 1))

    def mean(data, z):  # equation 10
        return (
            math.sqrt(before) * beta[i] / (1 - bar[i]) * data
            + math.sqrt(1 - beta[i]) * (1 - before) / (1 - bar[i]) * z
        )

    terms = []
    for x1, g1, r1, z1 in zip(*(v.flatten().tolist() for v in (x, guess, raw, z)), strict=True):
        f = (r1 + 1) / 2
        variance = beta[i] ** f * small ** (1 - f)  # equation 15
        if i == 0:
            nats = 0.5 * math.log(2 * math.pi * variance) + (x1 - mean(g1, z1)) ** 2 / (
                2 * variance
            )
        else:
            true = mean(x1, z1)
            ratio = small / variance
            nats = 0.5 * (ratio - 1 - math.log(ratio) + (true - mean(g1, z1)) ** 2 / variance)
        terms.append(nats / math.log(2))
    return T * sum(terms) / len(terms)


def test_the_bound_is_the_papers():
    path, x, guess, raw, z, t = example()
    got = bound(guess, raw, x, z, t, path)
    want = [naive(x[b], guess[b], raw[b], z[b], i) for b, i in enumerate(STEPS)]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-10, atol=0)


def test_only_the_variance_is_trained():
    path, x, guess, raw, z, t = example()
    guess.requires_grad_()
    raw.requires_grad_()
    bound(guess, raw, x, z, t, path).sum().backward()
    assert guess.grad is None
    assert raw.grad is not None and (raw.grad != 0).all()


def test_the_right_variance_has_the_least_bound():
    """With the true data, β̃ itself (raw −1) is best and leaves nothing."""
    path, x, _, _, z, t = example()
    best = bound(x, torch.full_like(x, -1.0), x, z, t, path)[1:]
    torch.testing.assert_close(best, torch.zeros_like(best), rtol=0, atol=1e-10)
    assert (bound(x, torch.full_like(x, -0.8), x, z, t, path)[1:] > 1e-4).all()


def test_variances_are_those_of_diffusers():
    scheduler = DDPMScheduler(
        num_train_timesteps=8, beta_start=0.01, beta_end=0.4, variance_type="learned_range"
    )
    path, _, _, raw, _, t = example()
    for b, i in list(enumerate(STEPS))[1:]:  # diffusers takes β̃_0 = 1e-20 at step 0
        want = scheduler._get_variance(i, predicted_variance=raw[b].float())
        got = log_variance(raw[b : b + 1].float(), t[b : b + 1], path)[0]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_widened(dtype):
    path, _, _, raw, _, t = example()
    assert log_variance(raw.to(dtype), t, path).dtype == torch.float32
