"""What every registered regularizer promises, and what every loss over pairs does."""

import pytest
import torch

from helpers.latent_views import PLACE, Toy, toy_view
from helpers.latent_views import batch as toy_batch
from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, PairLoss, PairLossConfig
from latentsmith.losses.regularizer import LatentBatch, Regularizer, RegularizerConfig

ALL = LOSSES.names()
NAMES = [entry.name for entry in LOSSES if issubclass(entry.config, PairLossConfig)]
DISTANCES = ["flat", "pooled", "tokens"]


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(16, 4, 3, 3, generator=rng), torch.randn(16, 10, generator=rng)


def build(name, **settings):
    return LOSSES[name].config(**settings).build()


@pytest.mark.parametrize("name", ALL)
def test_config(name):
    entry = LOSSES[name]
    config = entry.config()
    assert isinstance(config, RegularizerConfig)
    assert config.kind == name
    assert entry.help and "\n" not in entry.help
    assert isinstance(config.regularizer(PLACE), Regularizer)
    assert config.weight_at(0) == config.weight
    if name in NAMES:
        assert isinstance(config.build(), PairLoss)


def regularizer(name, **settings):
    return LOSSES[name].config(**settings).regularizer(PLACE).double()


def fixed(name):
    """Settings under which a term does not weigh itself by gradients."""
    return {"adaptive": False} if hasattr(LOSSES[name].config, "adaptive") else {}


@pytest.mark.parametrize("name", ALL)
def test_a_term_is_a_finite_scalar_with_gradient_into_the_encoder(name):
    toy, term = Toy().double(), regularizer(name)
    loss, parts = term(toy_view(toy, toy_batch()))
    loss.backward()
    assert loss.shape == () and loss.isfinite() and loss >= 0
    assert all(part.shape == () and not part.requires_grad for part in parts.values())
    grads = [p.grad.norm() for p in toy.encoder.parameters()]
    assert all(grad.isfinite() for grad in grads)
    if name != "none":
        assert parts, "nothing to see in the log"
        assert all(grad > 0 for grad in grads)
    assert all(p.grad is not None for p in term.parameters()), "a parameter that never trains"


@pytest.mark.parametrize("name", ALL)
def test_a_term_on_a_gpu(name, gpu):
    toy, term = Toy().double(), regularizer(name)
    here, parts = term(toy_view(toy, toy_batch()))
    toy, term = toy.to(gpu), term.to(gpu)
    data = {key: value.to(gpu) for key, value in toy_batch().items()}
    there, parts = term(toy_view(toy, data, step_noise_on=gpu))
    there.backward()
    assert there.device == gpu and all(part.device == gpu for part in parts.values())
    if name != "eqvae":  # draws another turn there
        assert there.item() == pytest.approx(here.item())


@pytest.mark.parametrize("name", ALL)
def test_a_term_says_what_it_reads(name):
    """It works with no more than its config asks for."""
    config, data, toy = LOSSES[name].config(), toy_batch(), Toy().double()
    seen = toy_view(toy, data)
    bare = {"vectors": seen.vectors if config.reads_vectors else {}}
    if config.teachers():
        bare["tokens"] = {n: seen.tokens[n] for n in config.teachers()}
    term = regularizer(name)
    if term.joint:
        again = LatentBatch(seen.latent, seen.vectors)
    else:
        again = type(seen)(**{**seen.__dict__, "tokens": {}, **bare})
    assert torch.equal(term(again)[0], term(seen)[0])


@pytest.mark.parametrize("name", ALL)
def test_a_term_that_is_not_joint_is_a_mean_over_samples(name):
    """So that micro-batches and processes add up to the batch; and `joint` is not claimed idly."""
    toy, term, data = Toy().double(), regularizer(name, **fixed(name)), toy_batch()
    whole = term(toy_view(toy, data))[0]
    halves = [term(toy_view(toy, data, part))[0] for part in (slice(0, 3), slice(3, 6))]
    apart = (sum(halves) / 2 - whole).abs()
    if term.joint and name != "none":
        assert apart > 1e-6
    else:
        assert apart < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_a_term_does_not_depend_on_the_order_of_samples(name):
    toy, term, data = Toy().double(), regularizer(name), toy_batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    turned = {key: value[order] for key, value in data.items()}
    torch.testing.assert_close(term(toy_view(toy, turned))[0], term(toy_view(toy, data))[0])


@pytest.mark.parametrize("name", ALL)
def test_a_term_under_autocast(name):
    toy, term = Toy(), regularizer(name).float()
    data = {key: value.float() for key, value in toy_batch().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = term(toy_view(toy, data))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in toy.encoder.parameters())


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
    with pytest.raises(TypeError, match=r"RegularizerConfig has no regularizer\(\)"):
        RegularizerConfig(kind="unfinished").regularizer(PLACE)
    with pytest.raises(TypeError, match="Regularizer computes nothing"):
        Regularizer()(toy_view(Toy().double(), toy_batch()))
    with pytest.raises(TypeError, match="PairLoss compares nothing"):
        PairLoss()(torch.randn(4, 2), torch.randn(4, 2))
