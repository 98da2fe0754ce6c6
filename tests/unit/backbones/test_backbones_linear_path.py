"""The linear paths of a network over text and a latent: closed forms to start from."""

import pytest
import torch
from torch.nn import functional as F

from helpers.text_latent import MASK, D, L, V, network, rng, texts
from latentsmith.backbones.mmdit import MMDiTConfig

SHARES = pytest.mark.parametrize("share", ["full", "streams", "none"])
EVERY = torch.arange(3 * L)
PIECES = torch.arange(2, MASK)


def inputs(t_text=0.3, t_lat=0.6):
    times = torch.full((3,), t_text), torch.full((3,), t_lat)
    return texts(3), torch.randn(3, D, generator=rng()), *times


def started(share="streams"):
    """At its own start, blocks silent, with rows and odds set."""
    config = MMDiTConfig(size="smoke", width=24, heads=2, share=share, linear=True)
    net = config.build(V, L, (D,)).double()
    to_latent, to_tokens = net.linear_paths()
    rows = torch.randn(len(PIECES), D, generator=rng(3), dtype=torch.float64)
    weight = torch.randn(V, D, generator=rng(4), dtype=torch.float64)
    to_latent.start(PIECES, rows, torch.full((D,), 0.5))
    to_tokens.start(weight, torch.arange(V) / V)
    return net, rows, weight


@SHARES
def test_every_parameter_is_used(share):
    net = network(share, linear=True)
    out = net(*inputs(), positions=EVERY)
    (out.logits.square().mean() + out.latent.square().mean()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@SHARES
def test_it_starts_as_the_closed_forms(share):
    """T2L from pure noise is Σ r / √n + b over the text's own pieces, L2T of a clean latent U z + d
    wherever a token stands."""
    net, rows, weight = started(share)
    tokens, latents, *_ = inputs()
    latents, zero, one = latents.double(), torch.zeros(3).double(), torch.ones(3).double()
    expected = []
    for row in tokens:
        own = [rows[token - 2] for token in row.tolist() if token >= 2]
        expected.append(torch.stack(own).sum(0) / len(own) ** 0.5 + 0.5)
    found = net(tokens, latents, zero, one).latent
    torch.testing.assert_close(found, torch.stack(expected))
    masked = torch.full_like(tokens, MASK)
    logits = net(masked, latents, one, zero, positions=EVERY).logits.unflatten(0, (3, L))
    odds = latents @ weight.T + torch.arange(V) / V
    torch.testing.assert_close(logits, odds[:, None].expand(-1, L, -1))


@SHARES
def test_what_is_absent_says_nothing(share):
    net, *_ = started(share)
    given = [x.double() if x.is_floating_point() else x for x in inputs(t_text=1.0, t_lat=1.0)]
    out = net(*given, positions=EVERY)
    assert not out.latent.any() and not out.logits.any()


def test_relaxed_tokens_that_are_certain_are_tokens_also_where_some_are_not_there():
    net = network(linear=True)
    net.linear_paths()[0].start(PIECES[:9], torch.randn(9, D, generator=rng(5)), torch.ones(D))
    tokens, *rest = inputs()
    for seen in (None, torch.arange(L) < torch.tensor([[3], [5], [8]])):
        a = net(tokens, *rest, seen=seen).latent
        b = net(F.one_hot(tokens, V).float(), *rest, seen=seen).latent
        torch.testing.assert_close(a, b)


def test_places_that_are_not_there_are_not_counted():
    net, (tokens, *rest) = network(linear=True), inputs()
    seen = torch.arange(L) < torch.tensor([[3], [5], [8]])
    other = torch.where(seen, tokens, 7)
    a, b = (net(x, *rest, seen=seen).latent for x in (tokens, other))
    torch.testing.assert_close(a, b)


def test_whose_they_are():
    net = network(linear=True)
    sides = {n.split(".")[0]: net.side(n) for n, _ in net.named_parameters()}
    assert sides["latent_bag"] == "latent" and sides["text_odds"] == "text"
    assert network().latent_bag is None
