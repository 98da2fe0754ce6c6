"""What a U-Net costs: activations, narrow weights, layout, attention; the full size, once."""

import pytest
import torch
from torch.nn import functional as F

from helpers.tiny_sd import inputs_for
from latentsmith.backbones import unet_memory
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings, add_lora
from latentsmith.backbones.unet_network import SDUNet
from latentsmith.backbones.unet_shapes import SHAPES
from latentsmith.diffusion.align_head import TokenProjector
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.losses.alignment import to_grid, token_cosine


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("scope", ["mid", "all_attention"])
def test_nothing_is_kept_before_the_first_trainable_layer(tiny_pipelines, scope, again):
    lora = LoraSettings(scope=scope)
    config = SDUNetConfig(source=tiny_pipelines("sd15"), lora=lora, gradient_checkpointing=again)
    network = config.build().train()
    kept, where = {"before": 0, "after": 0}, ["before"]
    first = network.unet.mid_block.attentions[0]  # the first trainable part of a mid-only LoRA
    first.register_forward_pre_hook(lambda *a: where.__setitem__(0, "after"))

    def pack(tensor):
        kept[where[0]] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(*inputs_for(network))
    assert kept["after"] > 0 and (kept["before"] == 0) == (scope == "mid")
    out.sample.square().mean().backward()


@pytest.mark.parametrize(("scope", "wanted"), [("mid", False), ("all_attention", True)])
def test_only_what_takes_gradients_is_recomputed(tiny_pipelines, monkeypatch, scope, wanted):
    lora = LoraSettings(scope=scope)
    source = tiny_pipelines("sd15")
    network = SDUNetConfig(source=source, lora=lora, gradient_checkpointing=True).build()
    recomputed = []
    real = unet_memory.checkpoint
    monkeypatch.setattr(
        unet_memory,
        "checkpoint",
        lambda module, *args, **how: recomputed.append(module) or real(module, *args, **how),
    )
    network(*inputs_for(network))
    down = {*network.unet.down_blocks.modules()}
    assert any(module in down for module in recomputed) is wanted
    assert network.unet.mid_block.resnets[1] in recomputed


def test_frozen_weights_may_be_narrow(tiny_pipelines):
    source = tiny_pipelines("sd15")
    wide = SDUNetConfig(source=source).build()
    narrow = SDUNetConfig(source=source, frozen_dtype="bfloat16").build()
    for name, p in narrow.named_parameters():
        assert p.dtype == (torch.float32 if p.requires_grad else torch.bfloat16), name
    z, t, condition = inputs_for(wide)
    want = wide(z, t, condition).sample
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = narrow(z, t, condition, taps=["mid"])
        assert out.sample.dtype == torch.float32
        assert 0 < (out.sample - want).abs().max() < 0.05 * want.abs().max()
        narrow.zero_grad()
        out.hidden["mid"].float().square().mean().backward()
        grads = [p.grad for p in narrow.parameters() if p.requires_grad]
        assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in grads)
        assert any(g.any() for g in grads if g is not None)


def test_channels_last(tiny_pipelines):
    source = tiny_pipelines("sd15")
    plain, last = (SDUNetConfig(source=source, channels_last=c).build() for c in (False, True))
    weight = last.unet.down_blocks[1].resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    z, t, condition = inputs_for(plain)
    want, out = (n(z, t, condition, taps=["mid"]) for n in (plain, last))
    torch.testing.assert_close(out.sample, want.sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.hidden["mid"], want.hidden["mid"], rtol=1e-4, atol=1e-4)


def test_attention_is_the_fused_one(network, monkeypatch):
    from diffusers.models.attention_processor import AttnProcessor2_0

    processors = network.unet.attn_processors
    assert len(processors) == 14  # self and cross, in 2 down blocks, the middle, 2 x 2 up
    assert {type(p) for p in processors.values()} == {AttnProcessor2_0}
    calls = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    network(*inputs_for(network))
    assert len(calls) == 14


@pytest.mark.slow
def test_full_size_once():
    """Stable Diffusion 1.5's U-Net with random weights: hooks, LoRA and U-REPA's head, one step.
    About 8 GB of memory."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(SHAPES["sd15"])
    add_lora(unet, LoraSettings(), 0)
    path = VPPathConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    network = SDUNet(unet, SDUNetConfig(predicts="noise", path=path))
    head = TokenProjector(
        network.width, 1024, hidden=1024, layers=2, activation="gelu", last_bias=False
    )
    assert sum(p.numel() for p in head.parameters()) == 2_360_320
    assert network.parameter_counts() == {
        "unet": 859_520_964,
        "lora": 155_648,
        "trainable": 155_648,
        "frozen": 859_520_964,
    }
    z, t = torch.randn(1, 4, 64, 64), torch.tensor([0.5])
    out = network(z, t, {"text": torch.randn(1, 77, 768)}, taps=["enc_last", "mid", "dec_first"])
    assert {tap: tuple(v.shape) for tap, v in out.hidden.items()} == {
        "enc_last": (1, 64, 1280),
        "mid": (1, 64, 1280),
        "dec_first": (1, 256, 1280),
    }
    tokens = out.hidden["mid"]
    tokens.retain_grad()
    students = to_grid(head(tokens), network.grid, (16, 16))
    teacher = F.normalize(torch.randn(1, 256, 1024), dim=-1)
    noise = torch.randn_like(z)
    loss = F.mse_loss(out.sample, noise) + 0.5 * (1 - token_cosine(students, teacher)).mean()
    loss.backward()
    assert tokens.grad is not None and (tokens.grad.norm(dim=-1) > 0).all()
    for name, p in [*network.named_parameters(), *head.named_parameters()]:
        if p.requires_grad:  # LoRA's first matrix waits for the second, which is 0
            assert p.grad is not None and p.grad.isfinite().all(), name
            assert p.grad.any() or "lora_A" in name, name
        else:
            assert p.grad is None
