"""LoRA on a U-Net: where it sits, what it counts, how it leaves."""

import pytest
import torch

from helpers.tiny_sd import condition_for, tiny_sd, tiny_unet
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings, add_lora, target_modules
from latentsmith.backbones.unet_network import parameter_counts
from latentsmith.backbones.unet_shapes import SHAPES
from latentsmith.errors import UserError

CONVS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


def on_meta(shape):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(SHAPES[shape])


def inputs(network, count=2):
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(count, *network.latent_shape, generator=rng)
    return z, torch.rand(count, generator=rng), condition_for(network, count)


def trained(network, seed=3):
    """LoRA as after training: nothing is 0."""
    rng = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        if p.requires_grad:
            p.data = torch.randn(p.shape, generator=rng) * 0.2
    return network


def by_hand(rank, width, text, transformers):
    """LoRA of transformer blocks: self-attention 4 (w → w), cross-attention 2 more and 2 of
    (text → w), each rank (in + out)."""
    return transformers * rank * (6 * 2 * width + 2 * (width + text))


@pytest.mark.parametrize(
    ("shape", "unet", "mid", "everywhere"),
    [
        ("sd15", 859_520_964, 155_648, 1_594_368),
        ("sd21", 865_910_724, 159_744, 1_659_904),
        ("sdxl", 2_567_463_684, 1_761_280, 11_612_160),
    ],
)
def test_real_architectures_count_right(shape, unet, mid, everywhere):
    for scope, lora in (("mid", mid), ("all_attention", everywhere)):
        network = on_meta(shape)
        add_lora(network, LoraSettings(scope=scope), 0)
        assert parameter_counts(network) == {
            "unet": unet,
            "lora": lora,
            "trainable": lora,
            "frozen": unet,
        }
    text, widths = SHAPES[shape]["cross_attention_dim"], SHAPES[shape]["block_out_channels"]
    # layers_per_block 2: 2 attentions in a down block, 3 in the up block of the same width
    depths = SHAPES[shape].get("transformer_layers_per_block", [1, 1, 1, 1])
    assert mid == by_hand(8, widths[-1], text, depths[-1])
    types = SHAPES[shape]["down_block_types"]
    pairs = [
        by_hand(8, width, text, 5 * depth)
        for width, depth, kind in zip(widths, depths, types, strict=True)
        if kind.startswith("CrossAttn")
    ]
    assert everywhere == mid + sum(pairs)


def test_scopes_and_targets():
    unet = tiny_unet()

    def found(**settings):
        return target_modules(unet, LoraSettings(**settings))

    assert len(found()) == 8 and all(name.startswith("mid_block.attentions.0") for name in found())
    every = found(scope="all_attention")
    # attention in 2 down blocks (1 layer), the middle and 2 up blocks (2 layers)
    assert len(every) == 8 * (2 + 1 + 2 * 2) and not [n for n in every if "conv" in n]
    assert found(scope=["mid"]) == found() == found(scope=["mid_block"])
    both = found(scope=["up_blocks.1", "mid"])
    assert sorted(both) == sorted(found() + found(scope=["up_blocks.1"]))
    assert found(scope=["mid_block.attentions.0.transformer_blocks.0.attn2"]) == found()[4:]
    assert found(scope=["enc_last"], targets=["conv1"]) == ["down_blocks.2.resnets.0.conv1"]
    assert len(found(targets=CONVS)) == 8 + 4
    assert found(scope=["up_blocks.1.attentions"], targets=["attn1.to_q"]) == [
        f"up_blocks.1.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in (0, 1)
    ]
    for settings, message in [
        ({"scope": ["middle"]}, "no module 'middle'"),
        ({"scope": ["mid", "enc_last"]}, "lora.scope names 'enc_last', where no layer"),
        ({"targets": ["to_q", "to_w"]}, "lora.targets names 'to_w', and no layer"),
        ({"targets": ["o_q"]}, "where no layer ends in o_q"),
    ]:
        with pytest.raises(UserError, match=message):
            found(**settings)
    for settings in ({"scope": []}, {"targets": []}):
        with pytest.raises(ValueError, match="leave nothing to train"):
            LoraSettings(**settings)


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("scope", ["mid", "all_attention", ["dec_first"]])
def test_starts_as_the_identity_and_alone_takes_gradients(tiny_pipelines, kind, scope):
    targets = CONVS if scope == ["dec_first"] else CONVS[:4]
    if scope == ["dec_first"] and kind != "sdxl":
        targets = CONVS[4:]  # no attention there
    lora = LoraSettings(scope=scope, targets=targets, rank=2)
    source = tiny_pipelines(kind)
    network = SDUNetConfig(source=source, lora=lora).build()
    plain = SDUNetConfig(source=source, adapt="none").build()
    z, t, condition = inputs(network)
    assert torch.equal(network(z, t, condition).sample, plain(z, t, condition).sample)
    loud = {name for name, p in network.named_parameters() if p.requires_grad}
    assert loud == {name for name, _ in network.named_parameters() if "lora_" in name} != set()
    assert not any(p.requires_grad for p in plain.parameters())
    network(z, t, condition).sample.square().mean().backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == loud
    moved = trained(network)(z, t, condition).sample
    assert (moved - plain(z, t, condition).sample).abs().max() > 1e-4
    counts = network.parameter_counts()
    assert counts["unet"] == plain.parameter_counts()["unet"] == counts["frozen"]
    assert counts["lora"] == counts["trainable"] > 0


def test_initial_weights_are_a_function_of_the_seed(tiny_pipelines):
    def lora(seed):
        network = SDUNetConfig(source=tiny_pipelines("sd15"), init_seed=seed).build()
        return {n: p for n, p in network.named_parameters() if p.requires_grad}

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = lora(0)
    assert torch.equal(torch.get_rng_state(), before), "building drew from the global generator"
    torch.manual_seed(1)
    again, other = lora(0), lora(1)
    assert all(torch.equal(p, again[n]) for n, p in first.items())
    drawn = [n for n in first if "lora_A" in n]
    assert all(first[n].any() and not torch.equal(first[n], other[n]) for n in drawn)
    assert not any(p.any() for n, p in first.items() if "lora_B" in n)


def test_alpha_over_rank_scales_and_dropout_is_for_training(tiny_pipelines):
    source = tiny_pipelines("sd15")

    def layer(**settings):
        network = trained(SDUNetConfig(source=source, lora=LoraSettings(**settings)).build())
        return network.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q

    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    for rank, alpha in ((4, 4.0), (4, 10.0)):
        found = layer(rank=rank, alpha=alpha)
        a, b = found.lora_A["default"].weight, found.lora_B["default"].weight
        want = found.base_layer(x) + alpha / rank * x @ a.T @ b.T
        assert a.shape == (rank, 48)
        torch.testing.assert_close(found(x), want)
    dropping = layer(dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(dropping.train()(x), dropping(x))
    assert torch.equal(dropping.eval()(x), layer()(x))


@pytest.mark.parametrize("targets", [CONVS[:4], CONVS])
@pytest.mark.parametrize("scope", ["mid", "all_attention"])
def test_export_is_what_a_pipeline_loads(tiny_pipelines, tmp_path, scope, targets):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    source = tiny_pipelines("sd15")
    lora = LoraSettings(rank=3, alpha=5.0, scope=scope, targets=targets)
    network = trained(SDUNetConfig(source=source, lora=lora).build())
    folder = network.export_lora(tmp_path / "lora")
    assert [f.name for f in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipeline = StableDiffusionPipeline.from_pretrained(source)
    z, t, condition = inputs(network)

    def told():
        with torch.no_grad():
            return pipeline.unet(
                z, network.index(t), encoder_hidden_states=condition["text"]
            ).sample

    base = told()
    pipeline.load_lora_weights(str(folder))
    want = network(z, t, condition).sample
    assert (told() - want).abs().max() <= 1e-6
    assert (base - want).abs().max() > 1e-3
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 5.0
    pipeline.unload_lora_weights()
    assert torch.equal(told(), base)


def test_export_of_an_xl_unet(tiny_pipelines, tmp_path):
    """By what ``StableDiffusionXLPipeline.load_lora_weights`` calls, without its text models."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    source = tiny_pipelines("sdxl")
    lora = LoraSettings(rank=2, alpha=6.0)
    network = trained(SDUNetConfig(source=source, lora=lora).build())
    folder = network.export_lora(tmp_path / "lora")
    unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet")
    state, alphas, metadata = StableDiffusionXLPipeline.lora_state_dict(
        str(folder), return_lora_metadata=True, unet_config=unet.config
    )
    StableDiffusionXLPipeline.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    z, t, condition = inputs(network)
    added = {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]}
    with torch.no_grad():
        out = unet(z, network.index(t), condition["text"], added_cond_kwargs=added).sample
    assert (out - network(z, t, condition).sample).abs().max() <= 1e-6


def test_nothing_to_export_is_told(tmp_path):
    source = tiny_sd(tmp_path / "pipeline")
    for adapt in ("none", "full"):
        with pytest.raises(UserError, match="no LoRA to export"):
            SDUNetConfig(source=source, adapt=adapt).build().export_lora(tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
