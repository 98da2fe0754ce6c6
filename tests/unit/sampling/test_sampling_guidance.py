"""Guidance: what is mixed, what is asked, and how often."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from helpers.flows import SHAPE, TinyBackbone
from latentsmith.backbones.base import BackboneOutput
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.flow import GVPPath, LinearPath
from latentsmith.errors import UserError
from latentsmith.sampling.guidance.autoguidance import AutoguidanceConfig
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.interval import IntervalCfgConfig
from latentsmith.sampling.guidance.none import NoGuidanceConfig
from latentsmith.sampling.guidance.rescaled import RescaledCfgConfig

LABELS = {"label": torch.tensor([0, 3, 4])}
NULL = {"label": torch.tensor([5, 5, 5])}


@pytest.fixture
def z():
    return torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return Denoiser(TinyBackbone(), LinearPath())


def at(t):
    return torch.full((3,), t, dtype=torch.float64)


def same(a, b, **how):
    torch.testing.assert_close(a.data, b.data, **how)
    torch.testing.assert_close(a.noise, b.noise, **how)


def test_none(model, z):
    same(
        NoGuidanceConfig().bind(model, LABELS)(z, at(0.4)),
        model(z, at(0.4), LABELS),
        rtol=0,
        atol=0,
    )
    with pytest.raises(UserError, match="guidance=none has no use for a weak model"):
        NoGuidanceConfig().bind(model, LABELS, weak=model)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 7.0])
def test_cfg_by_hand(model, z, scale):
    t = at(0.4)
    with_label, without = (model.backbone.network(z, t.float(), c["label"]) for c in (LABELS, NULL))
    by_hand = without + scale * (with_label - without)  # of velocities, as the papers write it
    denoise = CfgConfig(scale=scale).bind(model, LABELS)
    model.backbone.batches.clear()
    guided = denoise(z, t)
    assert model.backbone.batches == [6], "one forward of both"
    torch.testing.assert_close(guided.velocity(), by_hand)
    torch.testing.assert_close(guided.z(), z)


@pytest.mark.parametrize("config", [CfgConfig, IntervalCfgConfig, RescaledCfgConfig])
def test_scale_1_is_the_conditional_model_at_its_price(config, model, z):
    found = config(scale=1.0).bind(model, LABELS)(z, at(0.4))
    assert model.backbone.batches == [3]
    same(found, model(z, at(0.4), LABELS), rtol=0, atol=0)
    unconditional = Denoiser(TinyBackbone(classes=None), LinearPath())
    config(scale=1.0).bind(unconditional, {})(z, at(0.4))


def test_cfg_of_some_channels(model, z):
    t = at(0.4)
    found = CfgConfig(scale=3.0, channels=3).bind(model, LABELS)(z, t).velocity()
    every = CfgConfig(scale=3.0).bind(model, LABELS)(z, t).velocity()
    torch.testing.assert_close(found[:, :3], every[:, :3])
    torch.testing.assert_close(found[:, 3:], model(z, t, LABELS).velocity()[:, 3:])


def test_learned_variance_is_the_conditional_one(z):
    class Learned(TinyBackbone):
        def forward(self, z, t, condition, *, taps=()):
            out = super().forward(z, t, condition)
            return BackboneOutput(out.sample, variance=condition["label"].view(-1, 1, 1, 1) + 0 * z)

    model = Denoiser(Learned(), LinearPath())
    for config in (CfgConfig(), RescaledCfgConfig(), IntervalCfgConfig(low=0.0, high=1.0)):
        variance = config.bind(model, LABELS)(z, at(0.4)).variance
        assert variance is not None and variance[:, 0, 0, 0].tolist() == [0, 3, 4]


@pytest.mark.parametrize("t", [0.2, 0.300001, 0.5, 0.699999, 0.8])
def test_interval(model, z, t):
    config = IntervalCfgConfig(scale=3.0, low=0.3, high=0.7)
    denoise = config.bind(model, LABELS)
    found = denoise(z, at(t))
    inside = 0.3 <= t <= 0.7
    assert model.backbone.batches == [6 if inside else 3]
    expected = CfgConfig(scale=3.0) if inside else NoGuidanceConfig()
    same(found, expected.bind(model, LABELS)(z, at(t)), rtol=0, atol=0)


def test_interval_holds_its_ends_and_knows_each_sample(model, z):
    config = IntervalCfgConfig(scale=3.0, low=0.3, high=0.7)
    for dtype in (torch.float32, torch.float64):
        t = torch.tensor([0.3, 0.7, 0.9], dtype=dtype)
        found = config.bind(model, LABELS)(z, t)
        guided, plain = CfgConfig(scale=3.0).bind(model, LABELS)(z, t), model(z, t, LABELS)
        torch.testing.assert_close(found.data[:2], guided.data[:2])
        torch.testing.assert_close(found.data[2], plain.data[2])
        torch.testing.assert_close(found.noise[2], plain.noise[2])
        assert not torch.allclose(guided.data[2], plain.data[2])
    with pytest.raises(ValueError, match=r"low=0.8 lies above high=0.2: swap them"):
        IntervalCfgConfig(low=0.8, high=0.2)


@pytest.mark.parametrize("rescale", [0.0, 0.4, 1.0])
def test_rescaled(model, z, rescale):
    t = at(0.4)
    found = RescaledCfgConfig(scale=6.0, rescale=rescale).bind(model, LABELS)(z, t)
    guided = CfgConfig(scale=6.0).bind(model, LABELS)(z, t).velocity()
    conditional = model(z, t, LABELS).velocity()
    theirs = rescale_noise_cfg(guided, conditional, guidance_rescale=rescale)
    torch.testing.assert_close(found.velocity(), theirs)
    torch.testing.assert_close(found.z(), z)
    if rescale == 1:
        spread = lambda x: x.flatten(1).std(1)  # noqa: E731
        torch.testing.assert_close(spread(found.velocity()), spread(conditional))


def test_rescaled_survives_a_network_that_says_nothing(z):
    class Silent(TinyBackbone):
        def forward(self, z, t, condition, *, taps=()):
            return BackboneOutput(torch.zeros_like(z))

    found = RescaledCfgConfig().bind(Denoiser(Silent(), LinearPath()), LABELS)(z, at(0.4))
    assert found.data.isfinite().all()


def test_autoguidance(model, z):
    weak = Denoiser(TinyBackbone(seed=1), LinearPath())
    t = at(0.4)
    strong_v, weak_v = model(z, t, LABELS).velocity(), weak(z, t, LABELS).velocity()
    for scale in (0.0, 0.5, 2.5):
        found = AutoguidanceConfig(scale=scale).bind(model, LABELS, weak)(z, t)
        torch.testing.assert_close(found.velocity(), weak_v + scale * (strong_v - weak_v))
    weak.backbone.batches.clear()
    one = AutoguidanceConfig(scale=1.0).bind(model, LABELS, weak)(z, t)
    assert weak.backbone.batches == []
    same(one, model(z, t, LABELS), rtol=0, atol=0)


def test_autoguidance_needs_no_condition(z):
    model, weak = (Denoiser(TinyBackbone(seed, classes=None), LinearPath()) for seed in (0, 1))
    assert AutoguidanceConfig().bind(model, {}, weak)(z, at(0.4)).data.shape == z.shape


def test_what_cannot_be_guided(model):
    unconditional = Denoiser(TinyBackbone(classes=None), LinearPath())
    for config in (CfgConfig(), IntervalCfgConfig(), RescaledCfgConfig()):
        with pytest.raises(UserError, match="has none: use guidance=none"):
            config.bind(unconditional, {})
        with pytest.raises(UserError, match="this network is unconditional"):
            config.bind(unconditional, LABELS)
        with pytest.raises(UserError, match=f"guidance={config.kind} has no use for a weak"):
            config.bind(model, LABELS, weak=model)
    with pytest.raises(UserError, match="autoguidance needs a weak model"):
        AutoguidanceConfig().bind(model, LABELS)
    with pytest.raises(UserError, match="the weak model was trained on another path"):
        AutoguidanceConfig().bind(model, LABELS, Denoiser(TinyBackbone(), GVPPath()))
    other = TinyBackbone()
    other.latent_shape = (4, 8, 8)
    with pytest.raises(UserError, match=r"the weak model's latents are \(4, 8, 8\), the model's"):
        AutoguidanceConfig().bind(model, LABELS, Denoiser(other, LinearPath()))
