"""Guidance of edits, on a small text_dit: against three forwards written out."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from helpers.backbones import randomized
from helpers.flows import TinyBackbone
from latentsmith.backbones.text_dit import TextDiTConfig
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.flow import LinearPath
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.sampling.guidance.cfg import CfgConfig
from latentsmith.sampling.guidance.edit import EditGuidanceConfig
from latentsmith.sampling.guidance.rescaled import RescaledCfgConfig

LATENT, LENGTH, WIDTH = (4, 4, 6), 5, 6
RNG = torch.Generator().manual_seed(0)
Z, SOURCE = torch.randn(2, 3, *LATENT, generator=RNG, dtype=torch.float64)
T = torch.full((3,), 0.5, dtype=torch.float64)
TEXT = {
    "text": torch.randn(3, LENGTH, WIDTH, generator=RNG, dtype=torch.float64),
    "mask": torch.arange(LENGTH) < torch.tensor([[2], [3], [4]]),
}
EDIT = TEXT | {"source": SOURCE, "has_source": torch.ones(3, dtype=torch.bool)}


def model(path=None, **settings):
    config = TextDiTConfig(
        width=24, depth=2, heads=3, text_width=WIDTH, text_length=LENGTH, **settings
    )
    network = randomized(config.build(LATENT)).double()
    null = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(3)).double()
    network.set_null(null, torch.arange(LENGTH) < 2)
    return Denoiser(network, path or LinearPath())


@pytest.fixture
def asked():
    """(model, batch sizes it was asked for)."""
    denoiser, sizes = model(), []
    denoiser.backbone.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    return denoiser, sizes


def same(a, b, **how):
    torch.testing.assert_close(a.data, b.data, **how)
    torch.testing.assert_close(a.noise, b.noise, **how)


def by_hand(network, text, image):
    """Equation 3, of what the network puts out."""
    time, kept = T.float(), network.conditions
    empty = {
        "text": kept.null_text.expand(3, -1, -1),
        "mask": kept.null_mask.expand(3, -1),
    }
    nothing = network(Z, time, empty).sample  # not even a place for a source
    shown = network(Z, time, empty | {"source": SOURCE}).sample
    both = network(Z, time, TEXT | {"source": SOURCE}).sample
    return nothing + image * (shown - nothing) + text * (both - shown), both


SCALES = [(7.5, 1.5), (2.0, 2.0), (0.0, 1.0), (3.0, 1.0), (1.0, 3.0), (0.0, 0.0)]


@pytest.mark.parametrize(("text", "image"), SCALES)
def test_edit_guidance_is_equation_3(asked, text, image):
    denoiser, sizes = asked
    want, _ = by_hand(denoiser.backbone, text, image)
    denoise = EditGuidanceConfig(text=text, image=image).bind(denoiser, EDIT)
    sizes.clear()
    found = denoise(Z, T)
    terms = 1 + (image != text) + (image != 1)
    assert sizes == [3 * terms], "one forward of the terms that count"
    torch.testing.assert_close(found.velocity(), want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.z(), Z)


def test_it_mixes_what_a_ddpm_network_says():
    denoiser = model(VPPathConfig(timesteps=100).build(), predicts="noise")
    want, _ = by_hand(denoiser.backbone, 5.0, 1.5)
    found = EditGuidanceConfig(text=5.0, image=1.5).bind(denoiser, EDIT)(Z, T)
    torch.testing.assert_close(found.noise, want, rtol=1e-8, atol=1e-8)


def test_scales_of_1_are_the_conditional_model_at_its_price(asked):
    denoiser, sizes = asked
    config = EditGuidanceConfig(text=1.0, image=1.0, rescale=0.7)
    found = config.bind(denoiser, EDIT)(Z, T)
    assert sizes == [3]
    same(found, denoiser(Z, T, EDIT), rtol=0, atol=0)


def test_samples_without_a_source_get_classifier_free_guidance(asked):
    denoiser, _ = asked
    has = torch.tensor([0, 1, 0])
    found = EditGuidanceConfig(text=4.0, image=1.5).bind(denoiser, EDIT | {"has_source": has})(Z, T)
    plain = CfgConfig(scale=4.0).bind(denoiser, TEXT)(Z, T)
    torch.testing.assert_close(found.data[[0, 2]], plain.data[[0, 2]], rtol=1e-8, atol=1e-8)
    assert not torch.allclose(found.data[1], plain.data[1], atol=1e-3)


def test_the_condition_need_not_say_who_has_a_source(asked):
    denoiser, _ = asked
    given = {name: value for name, value in EDIT.items() if name != "has_source"}
    config = EditGuidanceConfig()
    same(config.bind(denoiser, given)(Z, T), config.bind(denoiser, EDIT)(Z, T), rtol=0, atol=0)


@pytest.mark.parametrize("rescale", [0.4, 1.0])
@pytest.mark.parametrize(("text", "image"), [(7.5, 1.5), (0.0, 1.5)])
def test_rescaled(asked, rescale, text, image):
    denoiser, _ = asked
    guided, conditional = by_hand(denoiser.backbone, text, image)
    theirs = rescale_noise_cfg(guided, conditional, guidance_rescale=rescale)
    config = EditGuidanceConfig(text=text, image=image, rescale=rescale)
    found = config.bind(denoiser, EDIT)(Z, T)
    torch.testing.assert_close(found.velocity(), theirs, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.z(), Z)


def test_text_guidance_of_a_text_dit(asked):
    """cfg drops both at once, of one network for images and edits."""
    denoiser, _ = asked
    for condition in (TEXT, EDIT):
        found = CfgConfig(scale=1.0).bind(denoiser, condition)(Z, T)
        same(found, denoiser(Z, T, condition), rtol=0, atol=0)
        nothing = denoiser(Z, T, denoiser.backbone.null(condition))
        same(CfgConfig(scale=0.0).bind(denoiser, condition)(Z, T), nothing, rtol=1e-8, atol=1e-8)
    assert RescaledCfgConfig().bind(denoiser, EDIT)(Z, T).data.isfinite().all()


def test_what_cannot_be_guided(asked):
    denoiser, _ = asked
    with pytest.raises(UserError, match=r"no 'source': use guidance=cfg"):
        EditGuidanceConfig().bind(denoiser, TEXT)
    with pytest.raises(UserError, match="guidance=edit has no use for a weak"):
        EditGuidanceConfig().bind(denoiser, EDIT, weak=denoiser)
    classes = Denoiser(TinyBackbone(), LinearPath())
    with pytest.raises(UserError, match=r"no 'source': use guidance=cfg"):
        EditGuidanceConfig().bind(classes, {"label": torch.tensor([0, 3, 4])})
