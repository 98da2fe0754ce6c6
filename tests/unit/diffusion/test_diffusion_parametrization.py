"""Conversions in all directions, at all times; predictions and denoisers."""

import itertools
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler
from toy_denoising import ToyBackbone, ToyBackboneConfig

from latentsmith.backbones.base import BackboneOutput
from latentsmith.diffusion.denoiser import Denoiser, Prediction
from latentsmith.diffusion.flow import GVPPath, LinearPath
from latentsmith.diffusion.parametrization import (
    Parametrization,
    convert,
    data_and_noise,
    of_pair,
)
from latentsmith.diffusion.vp import VPPathConfig

ALL = get_args(Parametrization)
PATHS = {
    "linear": LinearPath(),
    "gvp": GVPPath(),
    "vp": VPPathConfig().build(),
    "zero snr": VPPathConfig(zero_terminal_snr=True).build(),
}
NEEDS_SIGNAL = {(s, g) for s in ("noise", "score") for g in ("data", "v", "velocity")}
"""(source, target) without an answer where α = 0."""
NEEDS_NOISE = {("data", g) for g in ALL if g != "data"} | {
    (s, g) for s in ALL for g in ALL if "score" in (s, g) and s != g
}
"""(source, target) without an answer where σ = 0."""


def truth(path, t, kind, x, e):
    """Straight from the definitions."""
    a, s, da, ds = (f(t)[:, None] for f in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
    return {
        "noise": e,
        "data": x,
        "v": a * e - s * x,
        "velocity": da * x + ds * e,
        "score": -e / s,
    }[kind]


def example(path, times):
    t = torch.tensor(times, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, len(t), 6, generator=rng, dtype=torch.float64)
    return x, e, t, path.mix(x, e, t)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(ALL, ALL)))
def test_every_direction(name, source, target):
    path = PATHS[name]
    x, e, t, z = example(path, [0.05, 0.1234, 0.5, 0.77777, 0.95])
    value = truth(path, t, source, x, e)
    got = convert(value, z, t, path, source, target)
    torch.testing.assert_close(got, truth(path, t, target, x, e), rtol=1e-10, atol=1e-11)
    back = convert(got, z, t, path, target, source)
    torch.testing.assert_close(back, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("source", ALL)
def test_data_and_noise_at_once_are_the_two_conversions(name, source):
    path = PATHS[name]
    rng = torch.Generator().manual_seed(7)
    value, z = torch.randn(2, 6, 3, 2, generator=rng, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    for got, target in zip(
        data_and_noise(value, z, t, path, source), ("data", "noise"), strict=True
    ):
        expected = convert(value, z, t, path, source, target)
        assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_slope_of_the_path(name):
    path, h = PATHS[name], 1e-6
    x, e, t, z = example(path, [0.1234, 0.5004, 0.7777])  # inside the steps of vp
    slope = (path.mix(x, e, t + h) - path.mix(x, e, t - h)) / (2 * h)
    velocity = convert(e, z, t, path, "noise", "velocity")
    torch.testing.assert_close(velocity, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(ALL, ALL)))
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_at_the_ends_there_is_an_answer_or_an_error(name, source, target, end):
    path = PATHS[name]
    x, e, t, z = example(path, [0.5, end])
    no_signal = end == 1 and path.ends[0] == 0
    bad = (no_signal and (source, target) in NEEDS_SIGNAL) or (
        end == 0 and (source, target) in NEEDS_NOISE
    )
    value = torch.zeros_like(x) if bad else truth(path, t, source, x, e)
    if bad:
        letter = "α" if no_signal else "σ"
        with pytest.raises(ValueError, match=f"undefined at t = {end:g}.*where {letter} = 0"):
            convert(value, z, t, path, source, target)
    else:
        got = convert(value, z, t, path, source, target)
        want = value if source == target else truth(path, t, target, x, e)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("noise", "epsilon"), ("data", "sample"), ("v", "v_prediction")]
)
def test_data_from_diffusers(ours, theirs):
    scheduler = DDPMScheduler(prediction_type=theirs, clip_sample=False)
    path = VPPathConfig().build()
    rng = torch.Generator().manual_seed(1)
    for i in (0, 10, 500, 999):
        value, z = torch.randn(2, 1, 4, 3, 3, generator=rng)
        want = scheduler.step(value, i, z, generator=rng).pred_original_sample
        t = path.time(torch.tensor([i]))
        got = convert(value, z, t, path, ours, "data")
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_v_is_what_diffusers_calls_velocity():
    scheduler, path = DDPMScheduler(), VPPathConfig().build()
    rng = torch.Generator().manual_seed(1)
    i = torch.tensor([0, 3, 400, 999])
    x, e = torch.randn(2, 4, 2, 3, 3, generator=rng)
    want = scheduler.get_velocity(x, e, i)
    torch.testing.assert_close(of_pair(x, e, path.time(i), path, "v"), want, rtol=1e-4, atol=1e-5)
    z = path.mix(x, e, path.time(i))
    got = convert(x, z, path.time(i), path, "data", "v")
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_dtypes():
    path, t = LinearPath(), torch.tensor([0.3, 0.6])
    x = torch.randn(2, 5)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out = convert(x.to(dtype), x.to(dtype), t, path, "data", "noise")
        assert out.dtype == torch.float32
    assert convert(x.bfloat16(), x, t, path, "v", "v").dtype == torch.float32
    assert convert(x.float(), x.double(), t, path, "v", "data").dtype == torch.float64


def test_gradient_goes_through():
    path, t = LinearPath(), torch.tensor([0.3, 0.6], dtype=torch.float64)
    value = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda v: convert(v, z, t, path, "noise", "velocity"), value)


# Predictions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("source", ALL)
def test_predictions_say_the_same_in_every_parametrization(name, source):
    path = PATHS[name]
    x, e, t, z = example(path, [0.1, 0.5, 0.9])
    seen = Prediction.of(truth(path, t, source, x, e), z, t, path, source)
    torch.testing.assert_close(seen.data, x, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(seen.noise, e, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(seen.z(), z, rtol=1e-10, atol=1e-11)
    for kind, value in (
        ("v", seen.v()), ("velocity", seen.velocity()), ("score", seen.score())
    ):  # fmt: skip
        torch.testing.assert_close(value, truth(path, t, kind, x, e), rtol=1e-9, atol=1e-9)


def test_the_score_has_no_value_without_noise():
    x = torch.randn(2, 3)
    seen = Prediction(x, x, torch.tensor([0.5, 0.0]), LinearPath())
    seen.v(), seen.velocity()
    with pytest.raises(ValueError, match="score from noise is undefined at t = 0"):
        seen.score()


def test_a_velocity_network_starts_from_pure_noise():
    path, z = LinearPath(), torch.randn(2, 3)
    value = torch.randn(2, 3)
    seen = Prediction.of(value, z, torch.ones(2), path, "velocity")
    torch.testing.assert_close(seen.data, z - value)
    torch.testing.assert_close(seen.noise, z)


def test_blends_and_new_data_keep_z():
    path = GVPPath()
    x, _, t, z = example(path, [0.2, 0.7])
    null, cond = (
        Prediction.of(v, z, t, path, "v", variance=v + 1)
        for v in (torch.randn_like(x), torch.randn_like(x))
    )
    mixed = null.blend(cond, 3.5)
    for kind in ("noise", "data", "v", "velocity", "score"):
        want = null.said_as(kind) + 3.5 * (cond.said_as(kind) - null.said_as(kind))
        torch.testing.assert_close(mixed.said_as(kind), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixed.z(), z)
    assert mixed.variance is cond.variance
    clipped = mixed.with_data(mixed.data.clamp(-1, 1), z)
    assert clipped.data.abs().max() <= 1
    torch.testing.assert_close(clipped.z(), z)


def toy(**settings):
    return ToyBackboneConfig(**settings).build((4, 4, 4), 3)


def test_a_denoiser_reads_its_backbone():
    for predicts in ALL:
        backbone = toy(predicts=predicts)
        z, t = torch.randn(2, 4, 4, 4), torch.tensor([0.3, 0.8])
        condition = {"label": torch.tensor([0, 2])}
        seen = Denoiser(backbone, LinearPath()).bind(condition)(z, t)
        output = backbone(z, t, condition).sample
        torch.testing.assert_close(seen.said_as(predicts), output, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen.z(), z, rtol=1e-4, atol=1e-4)


def test_a_denoiser_keeps_its_precision_to_the_network():
    seen_dtypes = []

    class Spy(ToyBackbone):
        def forward(self, z, t, condition, *, taps=()):
            out = super().forward(z, t, condition, taps=taps)
            seen_dtypes.append((z.dtype, t.dtype, out.sample.dtype))
            return BackboneOutput(out.sample, out.sample)

    backbone = Spy(ToyBackboneConfig(), (4, 4, 4), None)
    z = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    for precision, inner in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        seen = Denoiser(backbone, LinearPath(), precision)(z, t, {})
        assert seen.data.dtype == seen.noise.dtype == torch.float64
        assert seen_dtypes.pop() == (torch.float32, torch.float32, inner)
        assert seen.variance is not None
        torch.testing.assert_close(seen.z(), z)
    with torch.autocast("cpu", torch.bfloat16):  # the caller's, where there is no own
        seen = Denoiser(backbone, LinearPath())(z.float(), t, {})
    assert seen_dtypes.pop()[2] == torch.bfloat16 and seen.data.dtype == torch.float32
