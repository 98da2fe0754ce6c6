"""The network over text and a latent: what it depends on, what it shares, what it leaves out."""

import pickle

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from helpers.backbones import randomized
from helpers.text_latent import MASK, D, L, V, network, rng, texts
from latentsmith.backbones.blocks.positions import rope_1d, rotate
from latentsmith.backbones.mmdit import SIZES, MMDiTConfig
from latentsmith.errors import UserError

SHARES = pytest.mark.parametrize("share", ["full", "streams", "none"])
EVERY = torch.arange(3 * L)


def inputs(count=3, latent_shape=(D,), dtype=torch.float32):
    latents = torch.randn(count, *latent_shape, generator=rng(), dtype=dtype)
    times = torch.rand(2, count, generator=rng(1), dtype=dtype)
    return texts(count), latents, *times


@SHARES
@pytest.mark.parametrize("latent_shape", [(D,), (3, 5)])
def test_shapes(share, latent_shape):
    net = network(share, latent_shape)
    given = inputs(latent_shape=latent_shape)
    out = net(*given, positions=torch.tensor([0, 9, 23]))
    assert out.logits.shape == (3, V) and out.latent.shape == given[1].shape
    assert net(*given).logits is None
    assert net(*given, positions=EVERY, latent=False).latent is None


@SHARES
def test_every_parameter_is_used(share):
    net = network(share)
    out = net(*inputs(), positions=EVERY)
    (out.logits.square().mean() + out.latent.square().mean()).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@SHARES
def test_starts_uniform_over_tokens_and_at_the_mean_latent(share):
    net = MMDiTConfig(size="smoke", share=share).build(V, L, (D,))
    out = net(*inputs(), positions=EVERY)
    assert not out.logits.any() and not out.latent.any()
    again = MMDiTConfig(size="smoke", share=share).build(V, L, (D,)).state_dict()
    other = MMDiTConfig(size="smoke", share=share, init_seed=1).build(V, L, (D,)).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in net.state_dict().items())
    assert any(not torch.equal(v, other[k]) for k, v in net.state_dict().items())


@SHARES
def test_both_outputs_depend_on_both_inputs_and_both_times(share):
    net = network(share)
    tokens, latents, t_text, t_lat = inputs()
    before = net(tokens, latents, t_text, t_lat, positions=EVERY)
    others = [
        (torch.where(tokens == 1, 2, tokens), latents, t_text, t_lat),
        (tokens, latents + 0.1, t_text, t_lat),
        (tokens, latents, t_text * 0.9, t_lat),
        (tokens, latents, t_text, t_lat * 0.9),
    ]
    for other in others:
        after = net(*other, positions=EVERY)
        for a, b in ((before.logits, after.logits), (before.latent, after.latent)):
            assert (a - b).abs().unflatten(0, (3, -1)).flatten(1).amax(1).min() > 1e-5


@SHARES
def test_what_is_not_asked_for_changes_nothing(share):
    net = network(share)
    both = net(*inputs(), positions=EVERY)
    assert torch.equal(net(*inputs()).latent, both.latent)
    alone = net(*inputs(), positions=EVERY[3:7], latent=False).logits
    torch.testing.assert_close(alone, both.logits[3:7], rtol=1e-5, atol=1e-5)


def test_samples_do_not_see_each_other():
    net = network().double()
    given = inputs(dtype=torch.float64)
    together = net(*given, positions=EVERY)
    for k in range(3):
        alone = net(*(x[k : k + 1] for x in given), positions=torch.arange(L))
        torch.testing.assert_close(alone.latent[0], together.latent[k], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(alone.logits, together.logits[k * L : (k + 1) * L])


def test_qk_norm_changes_outputs_and_bounds_queries():
    with_norm, without = network(), network(qk_norm=False)
    without.load_state_dict({k: with_norm.state_dict()[k] for k in without.state_dict()})
    assert len(with_norm.state_dict()) > len(without.state_dict())
    a, b = (net(*inputs()).latent for net in (with_norm, without))
    assert (a - b).abs().max() > 1e-3
    seen = []
    stream = with_norm.blocks[0].streams[0]
    for scale in (1.0, 100.0):  # queries keep their length however large the projection
        with torch.no_grad():
            stream.qkv.weight.mul_(scale)
        x, vectors = torch.randn(2, L, 24, generator=rng()), [torch.zeros(2, 1, 24)] * 6
        seen.append(stream.enter(x, vectors, None)[0])
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-3, atol=1e-4)


def test_latent_tokens_are_a_set():
    """Permuting the tokens a latent is made of, on the way in and out alike, changes nothing: they
    have no places."""
    net = network().double()
    given = inputs(dtype=torch.float64)
    before = net(*given, positions=EVERY)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for p in (net.latent_in.weight, net.latent_in.bias):
            p.copy_(p.unflatten(0, (3, 24))[order].flatten(0, 1))
        out = net.latent_head.linear.weight
        out.copy_(out.unflatten(1, (3, 24))[:, order].flatten(1))
    after = net(*given, positions=EVERY)
    torch.testing.assert_close(after.latent, before.latent, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-10, atol=1e-12)


def test_text_tokens_and_native_latent_vectors_have_places():
    net, (tokens, latents, *times) = network(latent_shape=(3, 5)), inputs(latent_shape=(3, 5))
    before = net(tokens, latents, *times)
    turned = net(tokens, latents.roll(1, 1), *times).latent.roll(-1, 1)
    assert (turned - before.latent).abs().max() > 1e-4
    assert (net(tokens.flip(1), latents, *times).latent - before.latent).abs().max() > 1e-4


@SHARES
def test_learned_places_are_added_to_embeddings(share):
    """One vector at every place is what the mask's embedding plus that vector is; other vectors at
    other places are not."""
    net = network(share)
    parts = [net] if share != "none" else [net.text_net, net.latent_net]
    _, latents, *times = inputs()
    masks, more = torch.full((3, L), MASK), torch.randn(L, 24, generator=rng(5))

    def seen():
        out = net(masks, latents, *times, positions=EVERY)
        return out.logits[:, :MASK], out.latent

    with torch.no_grad():
        before = seen()
        for part in parts:
            part.text_places += more[0]
        shifted = seen()
        for part in parts:
            part.text_places -= more[0]
            part.embedding.weight[MASK] += more[0] / 24**0.5
        for a, b, c in zip(shifted, seen(), before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert (a - c).abs().max() > 1e-3
        for part in parts:
            part.embedding.weight[MASK] -= more[0] / 24**0.5
            part.text_places += more
        for a, b in zip(shifted, seen(), strict=True):
            assert (a - b).abs().max() > 1e-3
    out = net(masks, latents, *times, positions=EVERY)
    (out.logits.square().mean() + out.latent.square().mean()).backward()
    assert all(part.text_places.grad.any(1).all() for part in parts)


def test_learned_places_start_as_large_as_embeddings():
    """Else one of the two is not heard at first."""
    net = MMDiTConfig(size="tiny").build(500, 32, (D,))
    places, tokens = net.text_places, net.embedding(torch.arange(500))
    assert places.shape == (32, 96)
    assert places.std().item() == pytest.approx(tokens.std().item(), rel=0.05)
    assert net.side("text_places") == "text"


def test_places_that_are_not_there_are_not_seen():
    net, (tokens, *rest) = network(), inputs()
    seen = torch.arange(L) < torch.tensor([[3], [5], [8]])
    other = torch.where(seen, tokens, 7)
    a, b = (net(x, *rest, positions=torch.tensor([0, 8, 16]), seen=seen) for x in (tokens, other))
    torch.testing.assert_close(a.latent, b.latent)
    torch.testing.assert_close(a.logits, b.logits)
    assert (net(other, *rest).latent - a.latent)[:2].abs().min() > 0


def test_relaxed_tokens_that_are_certain_are_tokens():
    net, (tokens, *rest) = network(), inputs()
    certain = F.one_hot(tokens, V).float()
    torch.testing.assert_close(net(certain, *rest).latent, net(tokens, *rest).latent)


def test_times_are_told_apart_also_in_bfloat16():
    """Raw t in [0, 1] would leave nearly all waves constant; 1000 t in bfloat16 has steps of 4."""
    net = network().bfloat16()
    t = torch.tensor([0.700, 0.701, 0.702])
    c = net.text_time(t, torch.zeros(3)).float()
    assert (c[0] - c[1]).abs().max() > 0.01 and (c[1] - c[2]).abs().max() > 0.01


def test_rope_depends_on_displacement_alone():
    rope = rope_1d(8, 10)
    q, k = torch.randn(2, 8, generator=rng(), dtype=torch.float64)
    q, k = (rotate(x.expand(1, 1, 10, 8), rope)[0, 0] for x in (q, k))
    products = q @ k.T
    for shift in range(-9, 10):
        diagonal = products.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


@pytest.mark.parametrize("size", ["smoke", "tiny"])
def test_sizes(size):
    net = MMDiTConfig(size=size).build(500, 16, (384,))
    assert len(net.blocks) == SIZES[size][1]
    shared = MMDiTConfig(size=size, share="full").build(500, 16, (384,))
    two = MMDiTConfig(size=size, share="none").build(500, 16, (384,))
    count = [sum(p.numel() for p in n.parameters()) for n in (shared, net, two)]
    assert count[0] < count[1] < count[2] < 2 * count[1]


def test_pickle_and_state():
    net = network("none")
    again = pickle.loads(pickle.dumps(net))
    other = randomized(network("none"), seed=4)
    other.load_state_dict(net.state_dict())
    for copy in (again, other):
        assert torch.equal(copy(*inputs()).latent, net(*inputs()).latent)


def test_sides_partition_the_parameters():
    for share, expected in (
        ("full", {"text", "latent", "both"}), ("streams", {"text", "latent"}),
        ("none", {"text", "latent"}),
    ):  # fmt: skip
        net = network(share, latent_shape=(2, 6))
        sides = {n: net.side(n) for n, _ in net.named_parameters()}
        assert set(sides.values()) == expected
    streams = network()
    assert streams.side("embedding.weight") == streams.side("blocks.0.streams.0.qkv.weight")
    assert (
        streams.side("latent_in.weight") == "latent" == streams.side("blocks.1.streams.1.proj.bias")
    )


def test_errors():
    net = network()
    tokens, latents, *times = inputs()
    with pytest.raises(UserError, match=r"latents of shape \[3, 5\] .* network for \[B, 12\]"):
        net(tokens, latents[:, :5], *times)
    with pytest.raises(UserError, match="texts of 9 tokens given to a network for at most 8"):
        net(torch.full((3, L + 1), MASK), latents, *times)
    with pytest.raises(UserError, match=r"latents of shape \[2, 3, 4\]"):
        MMDiTConfig().build(V, L, (2, 3, 4))
    with pytest.raises(ValidationError, match=r"width 25 must be a multiple of 2 x heads .* as 24"):
        TypeAdapter(MMDiTConfig).validate_python({"width": 25, "heads": 4})
