"""What every registered mixer must hold to. A new mixer needs a line in `SMALL`."""

from dataclasses import fields

import pytest
import torch

from latentsmith.autoencoders.field.weights import start
from latentsmith.backbones.mixers import MIXERS, Mixer, Points

SMALL: dict[str, dict] = {
    "attention": {"heads": 2},
    "s6": {"curves": ["hilbert", "rows"], "state": 4, "rank": 2},
    "ssd": {"curves": ["hilbert", "columns"], "state": 4, "head": 8},
}
"""Settings that make a tiny mixer."""
WIDTH = 16
ALL = pytest.mark.parametrize("name", MIXERS.names())


def make(name: str, seed: int = 0, layer: int = 0, **settings) -> Mixer:
    assert name in SMALL, f"mixer {name!r} is new: say in SMALL how to make a tiny one"
    mixer = MIXERS[name].config(**(SMALL[name] | settings)).build(WIDTH, layer)
    start(mixer, seed)
    return mixer


def inputs(count: int = 21, dims: int = 2, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(3, count, WIDTH, generator=rng, dtype=dtype)
    return x, 2 * torch.rand(3, count, dims, generator=rng) - 1


@ALL
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_shape_dtype_and_gradients(name, dims):
    x, where = inputs(dims=dims, dtype=torch.float32)
    mixer = make(name)
    y = mixer(x, Points(where))
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
    y.square().sum().backward()
    idle = [n for n, p in mixer.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@ALL
def test_on_a_gpu(name, gpu):
    x, where = inputs(dtype=torch.float32)
    mixer = make(name).to(gpu)
    y = mixer(x.to(gpu), Points(where.to(gpu)))
    y.square().sum().backward()
    assert y.device == gpu and all(p.grad.device == gpu for p in mixer.parameters())


@ALL
def test_the_order_in_which_points_are_given_does_not_matter(name):
    x, where = inputs()
    mixer, order = make(name).double(), torch.randperm(x.shape[1])
    there = mixer(x[:, order], Points(where[:, order]))
    torch.testing.assert_close(there, mixer(x, Points(where))[:, order])


@ALL
def test_samples_do_not_see_each_other_and_every_point_is_seen(name):
    x, where = inputs()
    mixer = make(name).double()
    y = mixer(x, Points(where))
    torch.testing.assert_close(mixer(x[1:2], Points(where[1:2])), y[1:2])
    moved = x.clone()
    moved[:, 5] += 1.0
    assert ((mixer(moved, Points(where)) - y).abs().amax((0, 2)) > 0).all()


@ALL
def test_one_set_of_points_for_all_samples(name):
    x, where = inputs()
    mixer = make(name).double()
    expected = mixer(x, Points(where[:1].expand(3, -1, -1)))
    torch.testing.assert_close(mixer(x, Points(where[:1])), expected)


@ALL
def test_starts_from_its_own_seed(name):
    first, again, other = (make(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert any(not torch.equal(v, other[k]) for k, v in first.items())
    assert all(v.isfinite().all() for v in first.values())


@ALL
def test_every_setting_has_help(name):
    from latentsmith.config.fields import field_help

    config = MIXERS[name].config
    helps = field_help(config)
    assert not [f.name for f in fields(config) if f.name != "kind" and not helps.get(f.name)]
    assert MIXERS[name].help


def test_settings_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="heads 3 does not divide the width 16"):
        make("attention", heads=3)
    with pytest.raises(ValueError, match=r"mixer.head 5 does not divide 16"):
        make("ssd", head=5)
