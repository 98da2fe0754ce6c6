"""A loss of a converted prediction is the network's own loss, reweighted as the algebra says."""

import itertools
from typing import get_args

import pytest
import torch

from latentsmith.diffusion.flow import GVPPath, LinearPath
from latentsmith.diffusion.objective import check_ends, denoising_losses, target_of, weights
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError

ALL = get_args(Parametrization)
PATHS = {"linear": LinearPath(), "gvp": GVPPath(), "vp": VPPathConfig().build()}
T = torch.tensor([0.1, 0.35, 0.5, 0.7, 0.93], dtype=torch.float64)


def scale(path, kind, t):
    """κ: how large an error of 1 in the data is in another parametrization, from the paper's
    definitions (the noise's error is −α/σ of the data's)."""
    a, s, da, ds = path.alpha(t), path.sigma(t), path.d_alpha(t), path.d_sigma(t)
    return {
        "data": torch.ones_like(t),
        "noise": -a / s,
        "v": -(a * a + s * s) / s,
        "velocity": da - ds * a / s,
        "score": a / s**2,
    }[kind]


def example(path):
    rng = torch.Generator().manual_seed(0)
    x, e, output = torch.randn(3, len(T), 2, 3, 3, generator=rng, dtype=torch.float64)
    return x, e, output, path.mix(x, e, T)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("predicts", "objective"), list(itertools.product(ALL, ALL)))
def test_a_converted_loss_is_the_own_loss_reweighted(name, predicts, objective):
    path = PATHS[name]
    x, e, output, z = example(path)
    own_target = target_of(x, e, T, path, predicts)
    own = (output - own_target).square().mean((1, 2, 3))
    target = target_of(x, e, T, path, objective)
    loss = denoising_losses(output, target, z, T, path, predicts, objective)
    factor = (scale(path, objective, T) / scale(path, predicts, T)).square()
    torch.testing.assert_close(loss, factor * own, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("objective", ALL)
def test_min_snr_is_one_loss_in_every_space(name, objective):
    path, gamma = PATHS[name], 1.7  # SNR is above and below it within T
    x, e, output, z = example(path)
    target = target_of(x, e, T, path, objective)
    loss = denoising_losses(output, target, z, T, path, "data", objective)
    snr = (path.alpha(T) / path.sigma(T)).square()
    assert (snr > gamma).any() and (snr < gamma).any()
    want = snr.clamp(max=gamma) * (output - x).square().mean((1, 2, 3))
    got = weights(T, path, objective, "min_snr", gamma) * loss
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_min_snr_as_the_paper_writes_it():
    """Hang et al. 2023, section 3.4: min(SNR, γ)/SNR for noise, min(SNR, γ)/(SNR + 1) for v."""
    path, gamma = VPPathConfig().build(), 5.0
    snr = (path.alpha(T) / path.sigma(T)).square()
    low = snr.clamp(max=gamma)
    for objective, want in (("noise", low / snr), ("v", low / (snr + 1)), ("data", low)):
        got = weights(T, path, objective, "min_snr", gamma)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("objective", ALL)
def test_weights_are_finite_at_the_ends(objective):
    ends = torch.tensor([0.0, 1.0])
    for path in (*PATHS.values(), VPPathConfig(zero_terminal_snr=True).build()):
        for weighting in ("none", "min_snr"):
            w = weights(ends, path, objective, weighting, 5.0)
            assert w.isfinite().all() and (w >= 0).all() and w.dtype == torch.float64
    assert torch.equal(weights(T, PATHS["vp"], objective, "none", 5.0), torch.ones_like(T))


@pytest.mark.parametrize(
    ("path", "predicts", "objective", "low", "high", "message"),
    [
        ("linear", "noise", "velocity", 0, 1, "predicts noise is infinite at t = 1.*high=0.999"),
        ("linear", "data", "velocity", 0, 1, "predicts data is infinite at t = 0.*low=1e-3"),
        ("linear", "velocity", "score", 0, 1, "target of objective=score is infinite at t = 0"),
        ("linear", "score", "score", 0, 1, "target of objective=score is infinite at t = 0"),
        ("zero", "noise", "v", 0, 1, r"objective=noise\), or let it predict velocity"),
        ("zero", "noise", "noise", 0, 1, None),
        ("linear", "noise", "velocity", 0, 0.99, None),
        ("linear", "data", "velocity", 0.01, 1, None),
        ("linear", "velocity", "noise", 0, 1, None),
        ("linear", "velocity", "data", 0, 1, None),
        ("vp", "noise", "v", 0, 1, None),
        ("vp", "data", "score", 0, 1, None),  # a discrete path is never trained at t = 0
    ],
)
def test_losses_without_bounds_are_refused(path, predicts, objective, low, high, message):
    path = {**PATHS, "zero": VPPathConfig(zero_terminal_snr=True).build()}[path]
    if message is None:
        check_ends(path, predicts, objective, low, high)
    else:
        with pytest.raises(UserError, match=message):
            check_ends(path, predicts, objective, low, high)
