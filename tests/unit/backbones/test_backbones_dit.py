"""DiT and SiT: published sizes and costs, start, settings."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.backbones import randomized, tiny
from latentsmith.backbones.base import BACKBONES
from latentsmith.backbones.dit import SIZES, DiT, DiTConfig, SiTConfig
from latentsmith.errors import UserError
from latentsmith.registry import read


def on_meta(config: DiTConfig | SiTConfig, classes: int | None = 1000) -> DiT:
    with torch.device("meta"):
        return config.build((4, 32, 32), classes)


def learned(network: DiT) -> int:
    return sum(p.numel() for p in network.parameters())


# The published classes also count their fixed position table, N x width.
@pytest.mark.parametrize(
    ("size", "patch", "dit", "sit"),
    [
        ("S", 2, 32_865_056, 32_858_896),
        ("S", 4, 32_920_448, 32_895_808),
        ("S", 8, 33_142_016, 33_043_456),
        ("B", 2, 130_315_808, 130_303_504),
        ("L", 2, 457_840_672, 457_824_272),
        ("XL", 2, 674_834_720, 674_816_272),
        ("XL", 1, 674_793_224, 674_788_612),
    ],
)
def test_parameter_counts(size, patch, dit, sit):
    assert learned(on_meta(DiTConfig(size=size, patch=patch))) == dit
    assert learned(on_meta(SiTConfig(size=size, patch=patch))) == sit
    assert learned(on_meta(SiTConfig(size=size, patch=patch, learn_sigma=True))) == dit


def test_published_count_of_dit_xl_2():
    network = on_meta(DiTConfig(size="XL"))
    rows, columns = network.grid
    assert learned(network) + rows * columns * network.width == 675_129_632


@pytest.mark.parametrize(("size", "patch", "gmacs"), [("S", 2, 6.06), ("XL", 2, 118.64)])
def test_forward_costs_what_was_published(size, patch, gmacs):
    network = on_meta(DiTConfig(size=size, patch=patch))
    label = torch.zeros(1, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 4, 32, 32, device="meta"), label.float(), {"label": label})
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)  # multiply-adds


def test_swiglu_has_as_many_weights():
    gelu, swiglu = (learned(on_meta(SiTConfig(size="B", mlp=m))) for m in ("gelu", "swiglu"))
    assert swiglu == pytest.approx(gelu, rel=1e-3)


def test_start_is_the_published_one():
    network = SiTConfig(width=192, depth=2, heads=3).build((4, 16, 16), 100)
    for name, p in network.named_parameters():
        if "modulation" in name or name.startswith("final") or p.ndim == 1:
            assert not p.any(), name
        elif name.startswith(("time", "label")):
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.05), name
        else:
            bound = math.sqrt(6 / sum(p.shape))
            assert float(p.detach().abs().max()) == pytest.approx(bound, rel=0.01), name
            assert float(p.detach().abs().mean()) == pytest.approx(bound / 2, rel=0.05), name


def test_a_weight_does_not_depend_on_the_others():
    short, long = (tiny(depth=depth).build((4, 8, 8), 5).state_dict() for depth in (1, 3))
    assert all(torch.equal(v, long[k]) for k, v in short.items())


@pytest.mark.parametrize("kind", ["sit", "dit"])
def test_time_is_seen_as_set(kind):
    """DiT with its index and SiT with t: the same weights agree when told the same number."""
    a = randomized(tiny("dit", learn_sigma=False).build((4, 8, 8), None)).double()
    shift = {"sit": 0.0, "dit": -1.0}[kind]
    settings = {"time_scale": 500.0, "time_shift": shift, "learn_sigma": False}
    b = randomized(tiny(kind, **settings).build((4, 8, 8), None)).double()
    z, index = torch.randn(3, 4, 8, 8).double(), torch.tensor([0.0, 37, 499]).double()
    left = a(z, (index + 1) / 1000, {}).sample
    right = b(z, (index - shift) / 500, {}).sample
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_blocks_start_apart():
    a, b = tiny().build((4, 8, 8), 5).blocks
    assert not torch.equal(a.attn.qkv.weight, b.attn.qkv.weight)


def test_null_is_the_class_after_the_last():
    network = tiny().build((4, 8, 8), 5)
    assert network.null({"label": torch.tensor([0, 3])})["label"].tolist() == [5, 5]


@pytest.mark.parametrize(("checkpointing", "calls"), [(False, 1), (True, 2)])
def test_checkpointing_runs_blocks_again(checkpointing, calls):
    network = randomized(tiny(gradient_checkpointing=checkpointing).build((4, 8, 8), None))
    seen = []
    network.blocks[0].attn.register_forward_hook(lambda *_: seen.append(1))
    network(torch.randn(1, 4, 8, 8), torch.rand(1), {}).sample.sum().backward()
    assert len(seen) == calls
    with torch.no_grad():
        network(torch.randn(1, 4, 8, 8), torch.rand(1), {})
    assert len(seen) == calls + 1


VARIANTS = [
    {"mlp": "swiglu"},
    {"norm": "rms"},
    {"qk_norm": True},
    {"qk_norm": True, "norm": "rms"},
    {"position": "rope"},
    {"position": "both"},
    {"time_spacing": 1},
    {"patch": 1},
    {"mlp_ratio": 3.0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_settings_change_the_network_and_keep_it_sound(variant):
    z, t = torch.randn(2, 4, 8, 8).double(), torch.tensor([0.2, 0.9]).double()
    label = {"label": torch.tensor([0, 4])}
    settings = {"width": 24, "heads": 2 if "position" in variant else 3}
    # 12 channels a head for RoPE
    network, plain = (
        randomized(tiny(**settings, **v).build((4, 8, 8), 5)).double() for v in (variant, {})
    )
    out = network(z, t, label).sample
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert not torch.allclose(out, plain(z, t, label).sample)
    alone = network(z[1:], t[1:], {"label": label["label"][1:]}).sample
    torch.testing.assert_close(alone, out[1:], rtol=1e-10, atol=1e-12)


def test_compiles_without_breaks_and_gives_the_same():
    network = randomized(tiny(position="both", heads=2, qk_norm=True).build((4, 8, 8), 5))
    inputs = torch.randn(2, 4, 8, 8), torch.rand(2), {"label": torch.tensor([0, 5])}
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    out, expected = (net(*inputs, taps=(1,)) for net in (compiled, network))
    assert torch.equal(out.sample, expected.sample)
    assert torch.equal(out.hidden[1], expected.hidden[1])
    torch._dynamo.reset()


def test_float64_times_reach_the_embedder():
    """Index 999 of 1000 in float32 is off by more than 1e-5; as float64 it is not."""
    network = tiny("dit").build((4, 8, 8), None)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    seen = network.time.waves(t)[:, 0]
    torch.testing.assert_close(seen, torch.arange(1000).float().cos(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": None}, "width and depth and heads must be given"),
        ({"size": None, "width": 64, "heads": 4}, "depth must be given"),
        ({"width": 100, "heads": 3}, "multiple of heads"),
        ({"width": 30, "heads": 3}, "multiple of 4"),
        ({"width": 24, "heads": 3, "position": "rope"}, None),
        ({"width": 24, "heads": 4, "position": "rope"}, "4 x heads"),
    ],
)
def test_impossible_shapes_are_told(settings, message):
    if message is None:
        SiTConfig(**settings)
        return
    with pytest.raises(ValueError, match=message):
        SiTConfig(**settings)


def test_settings_from_plain_values():
    config = read(BACKBONES, {"kind": "sit", "size": "B", "patch": 4})
    assert isinstance(config, SiTConfig) and config.shape() == SIZES["B"]
    for wrong in ({"width": -3}, {"size": "XS"}, {"position": "learned"}, {"heads": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            read(BACKBONES, {"kind": "sit"} | wrong)


def test_size_and_what_overrides_it():
    assert SiTConfig(size="XL").shape() == SIZES["XL"] == (1152, 28, 16)
    assert SiTConfig(size="B", depth=3).shape() == (768, 3, 12)
    assert SiTConfig(size=None, width=64, depth=1, heads=2).shape() == (64, 1, 2)


def test_no_classes_is_none():
    with pytest.raises(UserError, match="0 classes"):
        tiny().build((4, 8, 8), 0)
