"""What every registered backbone must hold to. A new backbone needs a line in `SMALL`."""

import copy
import pickle
from dataclasses import fields

import pytest
import torch

from helpers.backbones import randomized
from helpers.tiny_sd import set_random_null
from latentsmith.backbones.base import BACKBONES, Backbone, BackboneOutput
from latentsmith.backbones.export import diffusers_class, load_backbone, save_backbone
from latentsmith.errors import UserError

SMALL: dict[str, dict] = {
    "dit": {"width": 24, "depth": 2, "heads": 3},
    "sit": {"width": 24, "depth": 2, "heads": 3},
    "skip_mlp": {"width": 24, "depth": 2},
    "text_dit": {
        "width": 24,
        "depth": 2,
        "heads": 3,
        "patch": 2,
        "text_width": 12,
        "text_length": 6,
    },
    "sd_unet": {
        "source": "scratch",
        "adapt": "full",
        "text_length": 6,
        "unet": {
            "block_out_channels": [8, 16],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
        },
    },
}
"""Settings that make a tiny network; a new backbone adds some."""

OF_TEXTS = {"sd_unet", "text_dit"}
"""Conditioned on texts, not on classes."""
OF_IMAGES = {"text_dit"}
"""Also told an image to edit."""

OF_ANY_SIDE = {"skip_mlp"}
"""Without patches that sides must be multiples of."""

LATENT = (4, 8, 8)
CLASSES = 5
ALL = pytest.mark.parametrize("name", BACKBONES.names())
OF_CLASSES = pytest.mark.parametrize("name", sorted({*BACKBONES.names()} - OF_TEXTS))


def make(name: str, classes: int | None = CLASSES, latent=LATENT, **settings) -> Backbone:
    assert name in SMALL, f"backbone {name!r} is new: say in SMALL how to make a tiny one"
    config = BACKBONES[name].config(**(SMALL[name] | settings))
    network = config.build(latent, None if name in OF_TEXTS else classes)
    return set_random_null(network) if name in OF_TEXTS else network


def inputs(name: str, count: int = 3, latent=LATENT, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(count, *latent, generator=rng)
    condition = {"label": torch.randint(CLASSES, (count,), generator=rng)}
    if name in OF_TEXTS:
        condition = {"text": torch.randn(count, 6, 12, generator=rng)}
    if name in OF_IMAGES:
        condition["mask"] = torch.arange(6) < torch.randint(1, 6, (count, 1), generator=rng)
        condition["source"] = torch.randn(count, *latent, generator=rng)
        condition["has_source"] = torch.ones(count, dtype=torch.int64)
    return z, torch.rand(count, generator=rng), condition


@ALL
def test_shapes_and_attributes(name):
    z, t, condition = inputs(name)
    network = make(name)
    out = network(z, t, condition)
    assert isinstance(out, BackboneOutput)
    assert out.sample.shape == z.shape and out.sample.dtype == z.dtype
    assert out.variance is None or out.variance.shape == z.shape
    assert out.hidden == {}
    assert network.latent_shape == LATENT and network.classes == (
        None if name in OF_TEXTS else CLASSES
    )
    assert network.predicts == network.config.predicts and network.config.kind == name


@ALL
def test_latents_need_not_be_square(name):
    z, t, condition = inputs(name, latent=(3, 8, 12))
    assert make(name, latent=(3, 8, 12))(z, t, condition).sample.shape == z.shape


@ALL
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_is_used(name, checkpointing):
    network = randomized(make(name, gradient_checkpointing=checkpointing))
    out = network(*inputs(name))
    loss = out.sample.square().mean()
    loss = loss if out.variance is None else loss + out.variance.square().mean()
    loss.backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@ALL
def test_checkpointing_changes_no_gradient(name):
    grads = []
    for checkpointing in (False, True):
        network = randomized(make(name, gradient_checkpointing=checkpointing))
        network(*inputs(name)).sample.square().mean().backward()
        grads.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@ALL
def test_output_depends_on_everything(name):
    network = randomized(make(name))
    z, t, condition = inputs(name)
    before = network(z, t, condition).sample
    others = [(z + 0.1, t, condition), (z, t * 0.9, condition), (z, t, network.null(condition))]
    for other in others:
        moved = (network(*other).sample - before).abs().amax(dim=(1, 2, 3))
        assert moved.min() > 1e-4
    assert torch.equal(network(z, t, condition).sample, before)


@ALL
def test_samples_do_not_see_each_other(name):
    network = randomized(make(name)).double()
    z, t, condition = inputs(name, 5)
    z, t = z.double(), t.double()
    together = network(z, t, condition)
    for k in range(5):
        own = {what: value[k : k + 1] for what, value in condition.items()}
        alone = network(z[k : k + 1], t[k : k + 1], own)
        torch.testing.assert_close(alone.sample[0], together.sample[k], rtol=1e-10, atol=1e-12)


@ALL
def test_starts_at_zero_and_from_its_own_seed(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = make(name)
    assert torch.equal(torch.get_rng_state(), before), "building drew from the global generator"
    torch.manual_seed(1)
    again, other = make(name).state_dict(), make(name, init_seed=1).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in first.state_dict().items())
    assert any(not torch.equal(v, other[k]) for k, v in first.state_dict().items())
    assert all(v.isfinite().all() for v in first.state_dict().values())
    assert not first(*inputs(name)).sample.any()


@ALL
def test_taps(name):
    network = randomized(make(name))
    z, t, condition = inputs(name)
    taps = [1, network.depth]
    out = network(z, t, condition, taps=taps)
    assert sorted(out.hidden) == taps
    for tap, tokens in out.hidden.items():
        width, (rows, columns) = network.tap_shape(tap)
        assert tokens.shape == (3, rows * columns, width)
        image = network.as_map(tap, tokens)
        assert image.shape == (3, width, rows, columns)
        assert torch.equal(image[:, :, -1, 0], tokens[:, -columns])  # raster order
    assert not torch.equal(out.hidden[1], out.hidden[network.depth])
    assert torch.equal(out.sample, network(z, t, condition).sample)
    for wrong in (0, network.depth + 1):
        with pytest.raises(UserError, match=f"no block {wrong}"):
            network(z, t, condition, taps=[wrong])
    with pytest.raises(UserError, match=r"no (block|module) '?nowhere"):
        network(z, t, condition, taps=["nowhere"])


@ALL
def test_null_condition(name):
    network = randomized(make(name))
    z, t, condition = inputs(name)
    null = network.null(condition)
    assert null.keys() == condition.keys()
    assert all(null[k].shape == v.shape and null[k].dtype == v.dtype for k, v in condition.items())
    assert all(not torch.equal(null[k], v) for k, v in condition.items())
    out = network(z[:1].expand_as(z), t[:1].expand_as(t), null).sample
    torch.testing.assert_close(out[0], out[1])


@OF_CLASSES
def test_unconditional(name):
    network = randomized(make(name, classes=None))
    z, t, condition = inputs(name)
    assert network(z, t, {}).sample.shape == z.shape and network.classes is None
    with pytest.raises(UserError, match="unconditional"):
        network.null({})
    with pytest.raises(UserError, match="unconditional"):
        network(z, t, condition)


@ALL
def test_wrong_sizes_are_told(name):
    network = make(name)
    z, t, condition = inputs(name)
    for wrong in (z[:, :3], z[..., :6], z[0]):
        with pytest.raises(UserError, match=r"latents of shape"):
            network(wrong, t, condition)
    with pytest.raises(UserError, match="times of shape"):
        network(z, t[:2], condition)
    what = next(iter(condition))
    with pytest.raises(UserError, match=f"{what}s of shape"):
        network(z, t, {what: condition[what][:1]})
    with pytest.raises(UserError, match=f"no '{what}'"):
        network(z, t, {})
    if name not in OF_ANY_SIDE:
        with pytest.raises(UserError, match="7 x 8"):
            make(name, latent=(4, 7, 8))


@ALL
def test_saved_and_loaded_is_equal(name, tmp_path):
    network = randomized(make(name))
    expected = network(*inputs(name))
    folder = save_backbone(network, tmp_path / "network")
    assert {f.name for f in folder.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    loaded = load_backbone(folder)
    assert loaded.config == network.config and type(loaded) is type(network)
    assert (loaded.latent_shape, loaded.classes) == (LATENT, network.classes)
    assert not loaded.training
    assert torch.equal(loaded(*inputs(name)).sample, expected.sample)
    assert all(p.requires_grad for p in loaded.parameters())
    z, t, condition = inputs(name)
    model = diffusers_class().from_pretrained(str(folder))
    names = {
        "label": "class_labels",
        "text": "encoder_hidden_states",
        "mask": "encoder_attention_mask",
    }
    known = {what: value for what, value in condition.items() if what in names}
    given = {names[what]: value for what, value in known.items()}
    assert torch.equal(model(z, t, **given), network(z, t, known).sample)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(load_backbone(tmp_path / "again")(*inputs(name)).sample, expected.sample)


@ALL
def test_copies_and_pickles(name):
    network = randomized(make(name))
    expected = network(*inputs(name)).sample
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(*inputs(name)).sample, expected)


@ALL
def test_half_precision_and_autocast(name):
    network = randomized(make(name), spread=0.1)
    z, t, condition = inputs(name)
    exact = network(z, t, condition).sample
    with torch.autocast("cpu", torch.bfloat16):
        auto = network(z, t, condition).sample
    assert auto.dtype == torch.float32
    half = network.bfloat16()(z, t, condition).sample
    for other in (auto, half):
        assert 0 < (other - exact).abs().max() < 0.05 * exact.abs().max()


@ALL
def test_every_setting_has_help(name):
    from latentsmith.config.fields import field_help

    config = BACKBONES[name].config
    helps = field_help(config)
    missing = [f.name for f in fields(config) if f.name != "kind" and not helps.get(f.name)]
    assert not missing and BACKBONES[name].help


@ALL
def test_the_same_on_a_gpu(name, gpu):
    network = randomized(make(name))
    z, t, condition = inputs(name)
    expected = network(z, t, condition).sample
    there = network.to(gpu)(z.to(gpu), t.to(gpu), {k: v.to(gpu) for k, v in condition.items()})
    assert there.sample.is_cuda
    torch.testing.assert_close(there.sample.cpu(), expected, rtol=1e-3, atol=1e-3)
