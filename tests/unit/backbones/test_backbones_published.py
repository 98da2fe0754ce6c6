"""Published checkpoints: the plain network in their layout is the oracle."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from helpers.backbones import plain_dit, randomized, tiny
from latentsmith.backbones.dit import SiTConfig
from latentsmith.backbones.published import (
    from_published,
    layout_of,
    load_published,
    to_published,
)
from latentsmith.errors import UserError


@pytest.fixture
def plain():
    return randomized(plain_dit()).eval()


def batch(dtype=torch.float64):
    rng = torch.Generator().manual_seed(5)
    z = torch.randn(4, 4, 8, 8, generator=rng, dtype=torch.float64)
    return z.to(dtype), torch.tensor([0, 2, 5, 4])  # 5: no class


def test_dit_computes_what_was_published(plain):
    z, label = batch(torch.float32)
    index = torch.tensor([0, 17, 500, 999])
    network = from_published(plain.state_dict(), "dit", heads=3)
    out = network(z, (index.double() + 1) / 1000, {"label": label})
    noise, variance = plain(z, index.float(), label).chunk(2, dim=1)
    torch.testing.assert_close(out.sample, noise, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.variance, variance, rtol=1e-5, atol=1e-5)
    assert noise.abs().mean() > 0.1, "the test says nothing when the output is near 0"
    assert network.config.kind == "dit" and network.predicts == "noise"


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("layout", ["sit", "repa"])
def test_sit_and_repa_compute_what_was_published(layout, learn_sigma):
    plain = randomized(plain_dit(learn_sigma=learn_sigma))
    z, label = batch(torch.float32)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])  # ours: 1 is noise
    network = from_published(plain.state_dict(), layout, heads=3)
    velocity = network(z, t, {"label": label}).sample  # dz/dt, towards the noise
    theirs = plain(z, 1 - t if layout == "sit" else t, label)[:, :4]
    theirs = -theirs if layout == "sit" else theirs  # SiT's runs towards the data
    torch.testing.assert_close(velocity, theirs, rtol=1e-5, atol=1e-5)
    assert network.predicts == "velocity" and network.config.learn_sigma is learn_sigma


def test_sit_in_float64_is_exact(plain):
    z, label = batch()
    t = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    network = from_published(plain.state_dict(), "sit", heads=3).double()
    reference = plain.double()(z, 1 - t, label)
    out = network(z, t, {"label": label})
    # the plain network's position table stays float32
    torch.testing.assert_close(out.sample, -reference[:, :4], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.variance, reference[:, 4:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", ["dit", "sit", "repa"])
def test_there_and_back(plain, layout):
    state = plain.state_dict()
    network = from_published(state, layout, heads=3)
    assert layout_of(network) == layout
    back = to_published(network)
    assert back.keys() == state.keys()
    for name, value in state.items():
        if name == "pos_embed":
            torch.testing.assert_close(back[name], value, rtol=0, atol=1e-6)
        else:
            assert torch.equal(back[name], value), name
    back["final_layer.linear.bias"].zero_()
    assert network.final.linear.bias.any(), "to_published must copy"


def test_shapes_are_read_from_the_tensors():
    plain = plain_dit(side=12, patch=4, channels=3, width=16, depth=3, heads=2, classes=7)
    network = from_published(plain.state_dict(), "dit", heads=2)
    assert network.latent_shape == (3, 12, 12) and network.grid == (3, 3)
    assert network.classes == 7 and network.config.shape() == (16, 3, 2)
    assert network.config.learn_sigma and network.config.mlp_ratio == 4.0
    assert not network.training and all(p.requires_grad for p in network.parameters())


def test_published_sizes_need_no_heads():
    plain = plain_dit(width=384, depth=1, heads=6)
    network = from_published(plain.state_dict(), "sit")
    assert network.config.shape() == (384, 1, 6)
    with pytest.raises(UserError, match=r"width 24 .* give heads"):
        from_published(plain_dit().state_dict(), "sit")


@pytest.mark.parametrize("form", ["bare", "ema", "model", "safetensors"])
def test_files(plain, tmp_path, form):
    state = plain.state_dict()
    other = {k: torch.zeros_like(v) for k, v in state.items()}
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "bare":
        torch.save(state, path)
    else:
        rest = {"args": argparse.Namespace(lr=1e-4), "opt": {"state": {}, "step": 3}}
        torch.save({"ema": other, "model": other, **rest} | {form: state}, path)
    weights = {"weights": "model"} if form == "model" else {}
    network = load_published(path, "sit", heads=3, **weights)
    assert torch.equal(network.patches.bias, state["x_embedder.proj.bias"])


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    torch.save({"ema": Evil()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="cannot read weights from"):
        load_published(tmp_path / "w.pt", "sit")
    assert "executed" not in capsys.readouterr().out


def test_unusable_files_are_told(tmp_path, plain):
    with pytest.raises(UserError, match="no file"):
        load_published(tmp_path / "none.pt", "sit")
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(UserError, match="cannot read weights from"):
            load_published(tmp_path / name, "sit")
    torch.save({"ema": plain.state_dict()}, tmp_path / "ema.pt")
    with pytest.raises(UserError, match="no 'model'"):
        load_published(tmp_path / "ema.pt", "sit", weights="model")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_published(tmp_path / "list.pt", "sit")


def test_weights_that_do_not_fit_are_named(plain):
    state = plain.state_dict()
    missing = {k: v for k, v in state.items() if k != "blocks.1.attn.proj.bias"}
    with pytest.raises(UserError, match=r"lacks blocks\.1\.attn\.proj\.bias"):
        from_published(missing, "dit", heads=3)
    with pytest.raises(UserError, match=r"unexpected projectors\.0\.weight"):
        from_published(state | {"projectors.0.weight": torch.zeros(1)}, "dit", heads=3)
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.fc2\.weight of shape \[24, 95\]"):
        wrong = state["blocks.0.mlp.fc2.weight"][:, 1:]
        from_published(state | {"blocks.0.mlp.fc2.weight": wrong}, "dit", heads=3)
    with pytest.raises(UserError, match=r"not in the published DiT layout: it lacks x_embedder"):
        from_published({"conv.weight": torch.zeros(1)}, "dit")
    with pytest.raises(UserError, match="not the published sin-cos table"):
        from_published(state | {"pos_embed": state["pos_embed"].flip(1)}, "dit", heads=3)


def test_repas_projectors_are_left_out(plain):
    state = plain.state_dict() | {"projectors.0.0.weight": torch.zeros(3, 3)}
    assert from_published(state, "repa", heads=3).classes == 5


@pytest.mark.parametrize(
    ("settings", "classes", "reason"),
    [
        ({"mlp": "swiglu"}, 5, "mlp=swiglu"),
        ({"qk_norm": True}, 5, "qk_norm=True"),
        ({"norm": "rms"}, 5, "norm=rms"),
        ({"position": "both", "heads": 2}, 5, "position=both"),
        ({"time_spacing": 1}, 5, "time_spacing=1"),
        ({}, None, "no classes"),
        ({"time_scale": 3.0}, 5, "time_scale 3"),
        ({"predicts": "data"}, 5, "predicts data"),
    ],
)
def test_what_the_layout_cannot_hold_is_told(settings, classes, reason):
    with pytest.raises(UserError, match=reason):
        to_published(tiny(**settings).build((4, 8, 8), classes))
    with pytest.raises(UserError, match="grid of 2 x 4"):
        to_published(SiTConfig(width=24, depth=1, heads=3).build((4, 4, 8), 5))
