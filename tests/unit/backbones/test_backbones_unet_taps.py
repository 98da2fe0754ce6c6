"""Features of a U-Net: the right ones, with their graph, and no trace left."""

import pytest
import torch
from torch import nn

from helpers.tiny_sd import inputs_for, tiny_unet
from latentsmith.backbones.sd_unet import SDUNetConfig
from latentsmith.backbones.unet_lora import LoraSettings
from latentsmith.backbones.unet_taps import blocks_of, path_of, tapped
from latentsmith.diffusion.align import Aligner, AlignmentConfig
from latentsmith.errors import UserError

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
INNER = ["mid_block.resnets.1", "mid_block.attentions.0", ATTENTION, "up_blocks.1.resnets.0"]
"""All but the second are recomputed, or lie in what is, under gradient checkpointing."""


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def awakened(network):
    """LoRA's second matrix is 0 at first, and no gradient passes it to the first."""
    rng = torch.Generator().manual_seed(3)
    for name, p in network.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=rng) * 0.1
    return network


def test_names_are_the_modules_they_say(network, tiny_pipelines):
    """Against hooks set by hand on a U-Net that diffusers loaded."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_pipelines("sd15"), subfolder="unet")
    kept = {}
    places = {"enc_last": unet.down_blocks[-1], "mid": unet.mid_block}
    places |= {"dec_first": unet.up_blocks[0], 1: unet.down_blocks[0], 7: unet.up_blocks[2]}
    for tap, module in places.items():
        module.register_forward_hook(lambda m, a, out, tap=tap: kept.update({tap: out}))
    z, t, condition = inputs_for(network)
    with torch.no_grad():
        unet(z, network.index(t), encoder_hidden_states=condition["text"])
        out = network(z, t, condition, taps=list(places))
    assert list(out.hidden) == list(places)
    for tap, tokens in out.hidden.items():
        want = kept[tap][0] if isinstance(kept[tap], tuple) else kept[tap]
        assert torch.equal(network.as_map(tap, tokens), want)
        assert torch.equal(tokens, want.flatten(2).transpose(1, 2))
        assert network.tap_shape(tap) == (want.shape[1], tuple(want.shape[2:]))
    same = {"enc_last": 3, "mid": 4, "dec_first": 5}
    assert all(path_of(unet, a) == path_of(unet, b) for a, b in same.items())
    assert network.tap_shape("mid") == (network.width, network.grid) == (48, (4, 4))
    assert blocks_of(unet)[3] == "mid_block" and network.depth == 7


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_paths_give_maps_and_tokens(tiny_pipelines, kind):
    network = SDUNetConfig(source=tiny_pipelines(kind)).build((4, 8, 16))
    z, t, condition = inputs_for(network)
    out = network(z, t, condition, taps=INNER)
    for tap, tokens in out.hidden.items():
        width, (rows, columns) = network.tap_shape(tap)
        assert tokens.shape == (2, rows * columns, width) and columns == 2 * rows
        assert network.as_map(tap, tokens).shape == (2, width, rows, columns)


def test_places_that_are_none_are_told(network):
    z, t, condition = inputs_for(network)
    for tap, message in {
        "mid_blok": r"no module 'mid_blok': give a number 1 … 7, one of enc_last",
        8: "no block 8: blocks are 1 … 7",
        ATTENTION.replace("attn1", "attn2") + ".to_k": "no map",
        "time_embedding": "no map",
        "up_blocks": "does not run",
    }.items():
        for call in (lambda tap: network(z, t, condition, taps=[tap]), network.tap_shape):
            with pytest.raises(UserError, match=message):
                call(tap)
    assert hooks(network) == 0


def test_hooks_go_however_it_ends(network, monkeypatch):
    z, t, condition = inputs_for(network)
    network(z, t, condition, taps=["mid", ATTENTION])
    network.features(z, t, condition, ["mid"])
    assert hooks(network) == 0

    def fail(*args, **kwargs):
        assert hooks(network) == 1
        raise RuntimeError("no memory")

    monkeypatch.setattr(network.unet.up_blocks[0], "forward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        network(z, t, condition, taps=["mid"])
    assert hooks(network) == 0


def test_gradient_reaches_every_cell_of_the_bottleneck(network):
    """Token-wise alignment pulls at each of the h w cells, also when the teacher's grid is finer
    and when it is the same; aligning one token (the source's "CLS equivalent") at one only."""
    awakened(network)
    z, t, condition = inputs_for(network)
    for teacher_tokens in (16, 64):
        config = AlignmentConfig(blocks=["mid"], hidden=12)
        aligner = Aligner(config, network, teacher_dim=6)
        out = network(z, t, condition, taps=aligner.taps)
        tokens = out.hidden["mid"]
        tokens.retain_grad()
        teacher = torch.randn(2, teacher_tokens, 6, generator=torch.Generator().manual_seed(1))
        network.zero_grad()
        students = aligner.students(out, t, teacher_tokens)
        aligner.token_loss(students, teacher).mean().backward()
        assert tokens.grad is not None
        assert (tokens.grad.norm(dim=-1) > 1e-6).all() and tokens.grad.shape == (2, 16, 48)
        silent = [
            name
            for name, p in network.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.any())
        ]
        assert silent == []
    tokens = network(z, t, condition, taps=["mid"]).hidden["mid"]
    tokens.retain_grad()
    tokens[:, 0].square().sum().backward()
    assert tokens.grad is not None and (tokens.grad.norm(dim=-1) > 0).sum() == 2


@pytest.mark.parametrize("tap", ["mid", "dec_first", *INNER])
def test_checkpointing_keeps_values_and_gradients(tiny_pipelines, tap):
    found = []
    for again in (False, True):
        config = SDUNetConfig(
            source=tiny_pipelines("sd15"),
            lora=LoraSettings(scope="all_attention"),
            gradient_checkpointing=again,
        )
        network = awakened(config.build())
        z, t, condition = inputs_for(network)
        out = network(z, t, condition, taps=[tap])
        assert out.hidden[tap].requires_grad
        before = out.hidden[tap].detach().clone()
        (out.hidden[tap].square().mean() + out.sample.square().mean()).backward()
        assert torch.equal(out.hidden[tap], before)
        grads = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
        assert all(g is not None and g.any() for g in grads.values())
        found.append((before, grads))
    (plain, grads), (other, regrads) = found
    assert torch.equal(plain, other)
    assert all(torch.equal(g, regrads[n]) for n, g in grads.items())


def test_a_recomputed_pass_does_not_count(tiny_pipelines):
    """Even when the backward pass runs while the hooks are there."""
    config = SDUNetConfig(source=tiny_pipelines("sd15"), gradient_checkpointing=True)
    network = awakened(config.build())
    z, t, condition = inputs_for(network)
    calls = []
    module = network.unet.get_submodule(ATTENTION)
    handle = module.register_forward_hook(lambda *a: calls.append(1))
    with tapped({"there": module}) as seen:
        out = network(z, t, condition)
        first = seen["there"]
        assert first.requires_grad
        out.sample.sum().backward()
        assert seen["there"] is first
    handle.remove()
    assert len(calls) == 2, "checkpointing did not recompute"


def test_compiled_in_place(tiny_pipelines):
    network = awakened(SDUNetConfig(source=tiny_pipelines("sd15")).build())
    taps = ["enc_last", "mid", "dec_first"]
    wanted = [network(*inputs_for(network, seed=seed), taps=taps) for seed in (0, 1)]
    network.compile(backend="aot_eager")
    # first without: what is compiled then must not hide what is asked for later
    torch.testing.assert_close(network(*inputs_for(network)).sample, wanted[0].sample)
    for seed in (0, 1):
        out = network(*inputs_for(network, seed=seed), taps=taps)
        torch.testing.assert_close(out.sample, wanted[seed].sample)
        for tap in taps:
            torch.testing.assert_close(out.hidden[tap], wanted[seed].hidden[tap])
    out.hidden["mid"].square().mean().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    assert not [name for name in network.state_dict() if "_orig_mod" in name]
    with pytest.raises(UserError, match="is compiled"):
        network(*inputs_for(network), taps=[ATTENTION])
    assert hooks(network) == 0


def test_compiled_by_a_caller(network, tiny_pipelines):
    """Whatever is asked for in whatever order: nothing is an older call's."""
    plain = SDUNetConfig(source=tiny_pipelines("sd15")).build()
    compiled = torch.compile(network, backend="eager")
    orders: list[list[int | str]] = [[], ["mid"], ["enc_last", ATTENTION], ["mid", 1], ["mid"], []]
    for seed, taps in enumerate(orders):
        out = compiled(*inputs_for(network, seed=seed), taps=taps)
        wanted = plain(*inputs_for(plain, seed=seed), taps=taps)
        torch.testing.assert_close(out.sample, wanted.sample)
        assert list(out.hidden) == taps
        for tap in taps:
            torch.testing.assert_close(out.hidden[tap], wanted.hidden[tap])


def test_a_whole_compiled_unet_is_told_and_not_misread(network):
    network.unet.compile(backend="eager")
    network(*inputs_for(network))
    with pytest.raises(UserError, match="do not compile the U-Net as a whole"):
        network(*inputs_for(network), taps=["mid"])


@pytest.mark.parametrize(
    ("taps", "runs"),
    [
        (["enc_last"], [1, 2, 3]),
        ([1], [1]),
        (["conv_in"], []),
        (["mid", 1], [1, 2, 3, 4]),
        (["mid_block.resnets.0"], [1, 2, 3, 4]),
        (["dec_first"], [1, 2, 3, 4, 5]),
        ([7], [1, 2, 3, 4, 5, 6, 7]),
        (["conv_out", "mid"], [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_features_stop_after_the_last(network, taps, runs):
    z, t, condition = inputs_for(network)
    want = network(z, t, condition, taps=taps)
    ran = []
    for number, path in enumerate(blocks_of(network.unet), start=1):
        block = network.unet.get_submodule(path)
        block.register_forward_hook(lambda *a, number=number: ran.append(number))
    keys = list(network.state_dict())
    features = network.features(z, t, condition, taps)
    assert ran == runs and list(features) == taps
    assert all(torch.equal(features[tap], want.hidden[tap]) for tap in taps)
    assert list(network.state_dict()) == keys
    assert torch.equal(network(z, t, condition).sample, want.sample)


def test_features_carry_the_same_gradient(network):
    awakened(network)
    z, t, condition = inputs_for(network)
    found = []
    for take in (
        lambda: network(z, t, condition, taps=["mid"]).hidden,
        lambda: network.features(z, t, condition, ["mid"]),
    ):
        network.zero_grad()
        take()["mid"].square().mean().backward()
        found.append([p.grad for p in network.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_context_manager_alone_takes_first_tensors():
    unet = tiny_unet()
    modules = {"down": unet.down_blocks[0], "mid": unet.mid_block}
    with torch.no_grad(), tapped(modules) as seen:
        assert seen == {}
        unet(torch.randn(1, 4, 16, 16), 3, encoder_hidden_states=torch.randn(1, 5, 24))
    assert seen["down"].shape == (1, 16, 8, 8) and seen["mid"].shape == (1, 48, 4, 4)
