"""What every registered pair loss promises."""

import pytest
import torch

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, PairLoss, PairLossConfig

NAMES = LOSSES.names()
DISTANCES = ["flat", "pooled", "tokens"]


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(16, 4, 3, 3, generator=rng), torch.randn(16, 10, generator=rng)


def build(name, **settings):
    return LOSSES[name].config(**settings).build()


@pytest.mark.parametrize("name", NAMES)
def test_config(name):
    entry = LOSSES[name]
    config = entry.config()
    assert isinstance(config, PairLossConfig)
    assert config.kind == name
    assert entry.help and "\n" not in entry.help
    assert isinstance(config.build(), PairLoss)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_finite_scalar_with_gradient_into_latents_only(name, distance, batch):
    z, r = batch
    z, r = z.requires_grad_(), r.requires_grad_()
    loss = build(name, distance=distance)(z, r)
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite() and loss >= 0
    assert z.grad is not None and z.grad.isfinite().all()
    assert r.grad is None
    if name != "none":
        assert (z.grad.flatten(1).norm(dim=1) > 0).all(), "a sample without gradient"


@pytest.mark.parametrize("name", NAMES)
def test_order_of_samples_does_not_matter(name, batch):
    z, r = batch[0].double(), batch[1].double()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(build(name)(z[order], r[order]), build(name)(z, r))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "none"])
def test_pairing_with_the_references_does_matter(name, batch):
    z, _ = batch
    loss = build(name)
    assert loss(z, z.flatten(1).roll(1, 0)) > loss(z, z.flatten(1)) + 1e-3


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name, distance, batch):
    z, r = batch
    plain = z.clone().requires_grad_()
    build(name, distance=distance)(plain, r).backward()
    cast = z.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name, distance=distance)(cast, r)
        assert loss.dtype == torch.float32
        loss.backward()
    assert torch.equal(loss, build(name, distance=distance)(z, r))
    assert torch.equal(plain.grad, cast.grad)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name, batch):
    z, r = batch
    for dtype, result in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        latents = z.to(dtype).requires_grad_()
        loss = build(name)(latents, r)
        loss.backward()
        assert loss.dtype == result
        assert latents.grad is not None and latents.grad.dtype == dtype


@pytest.mark.parametrize("name", [n for n in NAMES if n != "none"])
def test_descent_lowers_it(name, batch):
    z, r = batch
    z = z.clone().requires_grad_()
    loss = build(name)
    before = loss(z, r)
    (grad,) = torch.autograd.grad(before, z)
    with torch.no_grad():
        after = loss(z - 1e-2 * z.norm() / grad.norm() * grad, r)
    assert after < before


def test_the_union_is_a_schema():
    from pydantic import TypeAdapter

    adapter = TypeAdapter(LOSSES.union())
    loss = adapter.validate_python({"kind": "pearson", "weight": 0.1, "distance": "tokens"})
    assert loss == LOSSES["pearson"].config(weight=0.1, distance="tokens")
    for bad in ({"weight": -1}, {"ramp": 2}, {"distance": "cosine"}, {"wieght": 1}):
        with pytest.raises(ValueError):
            adapter.validate_python({"kind": "pearson", **bad})


def test_a_new_loss_is_held_to_the_base_class():
    @schema
    class Unfinished(PairLossConfig):
        kind: str = "unfinished"

    with pytest.raises(TypeError, match=r"Unfinished has no build\(\)"):
        Unfinished().build()
    with pytest.raises(TypeError, match="PairLoss compares nothing"):
        PairLoss()(torch.randn(4, 2), torch.randn(4, 2))
