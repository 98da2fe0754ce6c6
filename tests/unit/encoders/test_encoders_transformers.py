"""DINOv2 and CLIP against transformers called by hand, and their error messages."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_models import tiny_clip, tiny_dinov2
from latentsmith.encoders.clip import ClipConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.errors import UserError


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 42, 42, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_dinov2_outputs_are_the_models(tmp_path, images, registers):
    from transformers import AutoModel

    source = tiny_dinov2(tmp_path, registers=registers)
    encoder = DinoV2Config(source=source, resolution=42).build()
    pixels = images.clone()
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        pixels[:, channel] = (images[:, channel] - mean) / std
    hidden = AutoModel.from_pretrained(source).eval()(pixel_values=pixels).last_hidden_state
    out = encoder(images)
    assert encoder.grid == (3, 3)
    assert hidden.shape[1] == 1 + registers + 9
    torch.testing.assert_close(out.cls, hidden[:, 0])
    torch.testing.assert_close(out.tokens, hidden[:, 1 + registers :])
    torch.testing.assert_close(out.pooled, hidden[:, 1 + registers :].mean(1))
    torch.testing.assert_close(encoder.vector(images), hidden[:, 0])


def test_dinov2_refuses_a_resolution_off_the_patch_grid():
    with pytest.raises(ValueError, match=r"use 252 \(18 x 18 tokens\) or 266"):
        DinoV2Config(resolution=256)


def test_dinov2_checks_the_patch_size_of_the_source(tmp_path):
    source = tiny_dinov2(tmp_path, patch=7)
    with pytest.raises(UserError, match="set patch_size=7"):
        DinoV2Config(source=source).build()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("config", [DinoV2Config, ClipConfig])
def test_missing_source_says_how_to_get_it(config):
    with pytest.raises(UserError) as error:
        config(source="nobody/no-such-model").build()
    for part in ("nobody/no-such-model", "hub id", "folder", "HF_HUB_OFFLINE"):
        assert part in str(error.value)


def test_another_familys_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds a 'clip_vision_model' model"):
        DinoV2Config(source=tiny_clip(tmp_path)).build()


def test_incomplete_weights_are_refused_not_made_up(tmp_path):
    source = tiny_dinov2(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    del state["layernorm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weight.*layernorm\.weight.*stay random"):
        DinoV2Config(source=source).build()


def test_digest_follows_the_weights(tmp_path):
    encoder = DinoV2Config(source=tiny_dinov2(tmp_path)).build()
    before = encoder.digest()
    encoder.model.layernorm.weight.data[0] += 1e-3
    assert encoder.digest() != before


@pytest.mark.parametrize("resolution", [None, 48])
@torch.no_grad()
def test_clip_outputs_are_the_models(tmp_path, images, resolution):
    from transformers import CLIPVisionModelWithProjection

    source = tiny_clip(tmp_path)
    encoder = ClipConfig(source=source, resolution=resolution).build()
    side = resolution or 32
    images = torch.rand(2, 3, side, side)
    pixels = images.clone()
    means, stds = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
        pixels[:, channel] = (images[:, channel] - mean) / std
    model = CLIPVisionModelWithProjection.from_pretrained(source).eval()
    want = model(pixel_values=pixels, interpolate_pos_encoding=True)
    out = encoder(images)
    assert encoder.dim == 8
    torch.testing.assert_close(out.pooled, want.image_embeds)
    torch.testing.assert_close(out.cls, want.last_hidden_state[:, 0])
    torch.testing.assert_close(out.tokens, want.last_hidden_state[:, 1:])


def test_clip_without_projection(tmp_path):
    source = tiny_clip(tmp_path, projection=False)
    encoder = ClipConfig(source=source, projection=False).build()
    assert encoder.vector(torch.rand(2, 3, 32, 32)).shape == (2, 16)
    assert encoder.dim == 16
    with pytest.raises(UserError, match="visual_projection"):
        ClipConfig(source=source).build()


def test_clip_loads_the_image_tower_of_a_whole_model(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = shape | {"image_size": 32, "patch_size": 8}
    text = shape | {"vocab_size": 99, "max_position_embeddings": 8}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    whole.save_pretrained(tmp_path)
    encoder = ClipConfig(source=str(tmp_path)).build()
    weight = encoder.model.visual_projection.weight
    assert torch.equal(weight, whole.visual_projection.weight)


def test_clip_names_the_nearest_resolutions(tmp_path):
    with pytest.raises(UserError, match=r"use 40 \(5 x 5 tokens\) or 48"):
        ClipConfig(source=tiny_clip(tmp_path), resolution=42).build()
