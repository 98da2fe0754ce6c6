"""Stable Diffusion's U-Net as a backbone: its source, its time, its conditions."""

import shutil
from pathlib import Path

import pytest
import torch

from helpers.tiny_sd import BETAS, SIDE, condition_for, inputs_for, set_random_null
from latentsmith.backbones.base import BACKBONES
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.parametrization import convert
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.registry import read

# Source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "predicts"), [("sd15", "noise"), ("sd21", "v"), ("sdxl", "noise")]
)
def test_meaning_is_read_from_the_scheduler(tiny_pipelines, kind, predicts):
    source = tiny_pipelines(kind)
    network = SDUNetConfig(source=source).build()
    assert network.predicts == network.config.predicts == predicts
    path = network.config.path
    assert path == VPPathConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert network.path.timesteps == 1000 and network.latent_shape == (4, SIDE, SIDE)
    assert network.takes == (("text", "pooled", "time_ids") if kind == "sdxl" else ("text",))
    assert network.classes is None
    # what a user says stands above it
    other = VPPathConfig(timesteps=50)
    told = SDUNetConfig(source=source, predicts="data", path=other).build((4, 8, 12))
    assert told.predicts == "data" and told.path.timesteps == 50 and told.grid == (2, 3)
    half = SDUNetConfig(source=source, predicts="data").build().config
    assert half.predicts == "data" and half.path == path
    half = SDUNetConfig(source=source, path=other).build().config
    assert half.predicts == predicts and half.path == other


def test_a_unet_alone(tiny_pipelines, tmp_path):
    """Inside its pipeline it finds the scheduler, away from it it must be told."""
    source = Path(tiny_pipelines("sd21"))
    inside = SDUNetConfig(source=str(source / "unet")).build()
    assert inside.predicts == "v"
    alone = str(shutil.copytree(source / "unet", tmp_path / "unet"))
    with pytest.raises(UserError, match=r"no scheduler config.*set predicts .* and path"):
        SDUNetConfig(source=alone).build()
    with pytest.raises(UserError, match="no scheduler config"):
        SDUNetConfig(source=alone, predicts="v").build()
    told = SDUNetConfig(source=alone, predicts="v", path=inside.config.path).build()
    assert torch.equal(told(*inputs_for(told)).sample, inside(*inputs_for(told)).sample)
    with pytest.raises(UserError, match="3 channels, the U-Net was made for 4"):
        SDUNetConfig(source=str(source)).build((3, 16, 16))
    with pytest.raises(UserError, match=r"14 x 16 cannot be halved 2 times.*multiples of 4"):
        SDUNetConfig(source=str(source)).build((4, 14, 16))


def test_frozen_weights_are_never_random(tiny_pipelines, tmp_path):
    from safetensors.torch import load_file, save_file

    for adapt in ("lora", "none"):
        with pytest.raises(ValueError, match="would freeze random weights: set adapt=full"):
            SDUNetConfig(source="scratch", adapt=adapt)
    with pytest.raises(ValueError, match="source gives another one"):
        SDUNetConfig(unet={"layers_per_block": 1})
    with pytest.raises(ValueError, match="nothing is frozen"):
        SDUNetConfig(source="scratch", adapt="full", frozen_dtype="bfloat16")
    with pytest.raises(UserError, match=r"cannot load the U-Net .*nowhere.*Give a hub id"):
        SDUNetConfig(source=str(tmp_path / "nowhere"), predicts="v", path=VPPathConfig()).build()
    folder = Path(shutil.copytree(tiny_pipelines("sd15"), tmp_path / "pipeline"))
    with pytest.raises(UserError, match=r"vae' holds a AutoencoderKL, this backbone needs"):
        SDUNetConfig(source=str(folder), subfolder="vae").build()
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state["mid_block.resnets.0.conv1.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weight.*mid_block.resnets.0.conv1.weight"):
        SDUNetConfig(source=str(folder)).build()


def test_other_unets_are_refused():
    entries = {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
        "norm_num_groups": 4,
    }

    def build(**more):
        SDUNetConfig(source="scratch", adapt="full", unet=entries | more).build()

    with pytest.raises(UserError, match="num_class_embeds=10"):
        build(num_class_embeds=10)
    with pytest.raises(UserError, match="9 input channels for 4"):
        build(in_channels=9)
    with pytest.raises(UserError, match="diffusers can make no U-Net"):
        build(block_out_channels=[8, 8, 8])


def test_needs_and_settings(tiny_pipelines):
    source = tiny_pipelines("sd15")
    assert [need.ok for need in SDUNetConfig(source=source).needs()] == [True]
    assert [need.ok for need in SDUNetConfig(source=source + "/unet").needs()] == [True]
    assert [need.ok for need in SDUNetConfig(source=source + "/nowhere").needs()] == [False]
    assert SDUNetConfig(source="scratch", adapt="full").needs() == []
    config = read(BACKBONES, {"kind": "sd_unet", "lora": {"scope": ["mid", "up_blocks.0"]}})
    assert config.lora.scope == ["mid", "up_blocks.0"] and config.predicts is None
    assert read(BACKBONES, {"kind": "sd_unet", "lora": {"scope": "mid"}}).lora.scope == "mid"
    for wrong in ({"lora": {"rank": 0}}, {"frozen_dtype": "float16"}, {"predicts": "eps"}):
        with pytest.raises(UserError, match="do not fit"):
            read(BACKBONES, {"kind": "sd_unet"} | wrong)
    with pytest.raises(UserError, match="conditioned on texts, not on 10 classes"):
        SDUNetConfig(source=source).build((4, 16, 16), 10)


# Time and meaning --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("adapt", ["lora", "none"])
def test_the_same_as_diffusers(tiny_pipelines, kind, adapt):
    """At the step that ``add_noise`` of diffusers' scheduler calls i."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    source = tiny_pipelines(kind)
    unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet")
    scheduler = DDPMScheduler(**BETAS)
    network = SDUNetConfig(source=source, adapt=adapt).build()
    index = torch.tensor([0, 1, 499, 998, 999])
    t = network.path.time(index)
    for times in (t, t.float()):
        assert torch.equal(network.index(times), index)
        assert torch.equal(network.index(times - 0.0004), index)
    x, _, condition = inputs_for(network, 5)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    z = network.path.mix(x, noise, t)
    torch.testing.assert_close(z, scheduler.add_noise(x, noise, index), rtol=1e-5, atol=1e-5)
    added = None
    if kind == "sdxl":
        added = {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]}
    with torch.no_grad():
        want = unet(z, index, condition["text"], added_cond_kwargs=added).sample
        assert torch.equal(network(z, t.float(), condition).sample, want)


def test_noise_said_as_v(network):
    """v̂ = (ε̂ − √(1−ᾱ) z_t) / √ᾱ with ᾱ from diffusers' own betas."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    bar = (1 - betas).cumprod(0)
    index = torch.tensor([0, 10, 500, 999])
    z, _, condition = inputs_for(network.double(), 4)
    z = z.double()
    eps = network(z, network.path.time(index), condition).sample
    assert eps.dtype == torch.float64
    root, rest = bar[index].sqrt().view(-1, 1, 1, 1), (1 - bar[index]).sqrt().view(-1, 1, 1, 1)
    found = convert(eps, z, network.path.time(index), network.path, network.predicts, "v")
    torch.testing.assert_close(found, (eps - rest * z) / root, rtol=1e-9, atol=1e-9)


def test_denoiser_runs_it(network):
    z, t, condition = inputs_for(network)
    prediction = Denoiser(network, network.path)(z, t, condition)
    torch.testing.assert_close(prediction.noise, network(z, t, condition).sample)
    torch.testing.assert_close(prediction.z(), z, rtol=1e-4, atol=1e-4)


# Conditions --------------------------------------------------------------------------------------


def test_conditions_are_checked(tiny_pipelines):
    network = SDUNetConfig(source=tiny_pipelines("sdxl")).build()
    z, t, condition = inputs_for(network)
    for wrong, message in [
        ({k: v for k, v in condition.items() if k != "pooled"}, "has no 'pooled'.*=sdxl_text"),
        (condition | {"label": t}, "also has 'label'"),
        (condition | {"text": condition["text"][..., :24]}, r"takes \[2, L, 40\]"),
        (condition | {"text": condition["text"][:1]}, "texts of shape"),
        (condition | {"pooled": condition["pooled"][:, :8]}, r"takes \[2, 16\]"),
        (condition | {"time_ids": condition["time_ids"][:, :5]}, r"takes \[2, 6\]"),
    ]:
        with pytest.raises(UserError, match=message):
            network(z, t, wrong)
    before = network(z, t, condition).sample
    for name, value in condition.items():  # each of them counts
        assert not torch.equal(network(z, t, condition | {name: value + 1}).sample, before)
    half = {k: v.half() for k, v in condition.items()}  # as stores hold them
    torch.testing.assert_close(network(z, t, half).sample, before, rtol=1e-2, atol=1e-2)


def test_a_mask_says_nothing_to_it(tiny_pipelines):
    """It was trained to attend to padding: one text table serves it and a text_dit."""
    network = SDUNetConfig(source=tiny_pipelines("sd15"), text_length=20).build()
    z, t, condition = inputs_for(network)
    masked = condition | {"mask": torch.arange(20).expand(len(z), -1) < 3}
    told = network.complete(masked)
    assert set(told) == {"text"} and "mask" in masked
    assert torch.equal(network(z, t, told).sample, network(z, t, condition).sample)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_the_empty_prompt_is_kept(tiny_pipelines, kind):
    network = SDUNetConfig(source=tiny_pipelines(kind), text_length=20).build()
    z, t, condition = inputs_for(network)
    with pytest.raises(UserError, match=r"knows no empty prompt.*set_null"):
        network.null(condition)
    with pytest.raises(UserError, match="conditioned on text"):
        network.null({"label": torch.zeros(2)})
    told = network.conditions
    for wrong in (torch.zeros(19, told.width), torch.full((20, told.width), torch.nan)):
        with pytest.raises(UserError, match="the empty prompt's text embedding is"):
            told.set_null(wrong, torch.zeros(16))
    if kind == "sdxl":
        with pytest.raises(UserError, match=r"pooled embedding is missing.*text_encoder=sdxl_text"):
            told.set_null(torch.zeros(20, told.width))
        with pytest.raises(UserError, match="the empty prompt's pooled embedding is"):
            told.set_null(torch.zeros(20, told.width), torch.zeros(15))
    assert told.null_text.isnan().all(), "half of a refused prompt was kept"
    set_random_null(network)
    null = network.null(condition)
    assert {k: v.shape for k, v in null.items()} == {k: v.shape for k, v in condition.items()}
    assert torch.equal(null["text"][0], told.null_text)
    assert torch.equal(null["text"][1], told.null_text)
    if kind == "sdxl":
        assert torch.equal(null["pooled"][1], told.null_pooled)
        assert torch.equal(null["time_ids"], condition["time_ids"])
    with pytest.raises(UserError, match=r"texts are \[5, .*kept empty prompt is \[20, "):
        network.null(condition_for(network, 2, length=5))
    assert network(z, t, null).sample.isfinite().all()
