"""Cycles between text and latent: who learns from them, and through what."""

import pytest
import torch

from helpers.text_latent import EOS, MASK, NOW, D, L, V, batch, context, model, network, rng, task
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.diffusion.text_latent.noised import Rows
from latentsmith.errors import UserError
from latentsmith.losses.cycle.freeze import learning, reached
from latentsmith.losses.cycle.latent import LatentCycleConfig, kept_mse, relaxed
from latentsmith.losses.cycle.run import LatentCycle, TextCycle, guess
from latentsmith.losses.cycle.text import TextCycleConfig, as_far_off, bridged
from latentsmith.losses.priors.moments import MomentsConfig

NO_BASE = {"text_weight": 0, "latent_weight": 0}
TEXT_POLICIES = [
    ("detach", "streams"), ("text_side", "streams"), ("exclusive", "streams"),
    ("exclusive", "full"), ("separate", "none"), ("text_side", "none"),
]  # fmt: skip
KEEPS_T2L = {
    ("exclusive", "streams"),
    ("exclusive", "full"),
    ("separate", "none"),
    ("text_side", "none"),
}


def train(t, steps=3):
    """A few AdamW steps with weight decay, which moves whatever has a gradient, be it zero."""
    optimizer = torch.optim.AdamW(t.network.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        t("text_latent", batch(), context(16 * step))["loss"].backward()
        optimizer.step()
    return t


def t2l(m):
    noise = torch.randn(16, D, generator=rng(7))
    with torch.no_grad():
        return m.latents_of(batch()["tokens"], noise)


def l2t(m):
    data = batch()
    with torch.no_grad():
        return m.text_losses(
            data["tokens"], torch.ones(16, L).bool(), data["latents"], torch.ones(16)
        )[0]


def with_gradient(t):
    return {n for n, p in t.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("policy", "share"), TEXT_POLICIES)
def test_text_cycle_trains_whom_it_says_and_leaves_t2l_as_it_says(policy, share):
    net = network(share)
    t = task(net=net, t2l2t={"weight": 1.0, "freeze": policy}, **NO_BASE)
    allowed = learning(net, policy, "text")
    before, said = t2l(t.model), l2t(t.model)
    train(t)
    got = with_gradient(t)
    assert got and got <= allowed, "frozen gradients are None, not zero"
    assert all(p.requires_grad for p in net.parameters())
    assert not torch.equal(l2t(t.model), said)
    assert torch.equal(t2l(t.model), before) == ((policy, share) in KEEPS_T2L)


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        ("detach", "streams"),
        ("latent_side", "streams"),
        ("exclusive", "streams"),
        ("separate", "none"),
    ],
)
def test_latent_cycle_mirrors_it(policy, share):
    net = network(share)
    t = task(net=net, l2t2l={"weight": 1.0, "freeze": policy}, **NO_BASE)
    allowed = learning(net, policy, "latent")
    before, said = l2t(t.model), t2l(t.model)
    train(t)
    got = with_gradient(t)
    assert got and got <= allowed
    assert not torch.equal(t2l(t.model), said)
    assert torch.equal(l2t(t.model), before) == (policy in ("exclusive", "separate"))


def test_exclusive_is_found_where_most_gradients_are_zero():
    """At the start gates are closed: an audit of gradients would find nothing reached, and pass."""
    net = MMDiTConfig(size="smoke").build(V, L, (D,))
    names = {n for n, _ in net.named_parameters()}
    text, latent = reached(net, "text"), reached(net, "latent")
    assert text | latent == names
    only = learning(net, "exclusive", "text")
    assert only == text - latent and only
    assert all(n.startswith(("text_head.", "blocks.1.streams.0.")) for n in only)
    assert "text_head.dense.weight" in only and "embedding.weight" not in only
    mirrored = learning(net, "exclusive", "latent")
    assert all(n.startswith(("latent_head.", "blocks.1.streams.1.")) for n in mirrored)
    shared = sum(p.numel() for n, p in net.named_parameters() if n in text & latent)
    assert shared / sum(p.numel() for p in net.parameters()) > 0.5


@pytest.mark.parametrize(
    ("policy", "share", "output", "words"),
    [
        ("separate", "streams", "text", "set backbone.share=none, or freeze=exclusive"),
        ("text_side", "full", "text", "set backbone.share=streams"),
        ("latent_side", "streams", "text", "set freeze=text_side"),
        ("text_side", "streams", "latent", "set freeze=latent_side"),
    ],
)
def test_policies_that_cannot_be_kept_are_errors(policy, share, output, words):
    with pytest.raises(UserError, match=words):
        learning(network(share), policy, output)


# Bridges ------------------------------------------------------------------------------------------


def bridged_loss(m, bridge, scale=0.25):
    cycle = TextCycle(TextCycleConfig(weight=1, bridge=bridge, scale=scale), m)
    rows, noise = Rows.of(batch(4), m), context().noise
    z = guess(m, cycle.config, rows, noise, graph=bridge != "detach")
    return cycle(rows, z, noise)[0]


def test_gradient_through_the_bridge_is_the_finite_difference():
    m = model(network("none").double())
    p = m.network.latent_net.latent_head.linear.weight  # of T2L alone
    bridged_loss(m, "through").backward()
    exact = p.grad.clone()
    for place in ((0, 0), (3, 10), (11, 40)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p[place] += step
            values.append(bridged_loss(m, "through").detach())
            with torch.no_grad():
                p[place] -= step
        slope = float(values[0] - values[1]) / 2e-5
        assert float(exact[place]) == pytest.approx(slope, rel=1e-4)
    m.network.zero_grad()
    bridged_loss(m, "scaled").backward()
    torch.testing.assert_close(p.grad, 0.25 * exact)
    m.network.zero_grad()
    bridged_loss(m, "detach").backward()
    assert p.grad is None


def test_bridges_show_the_same_numbers():
    z = torch.randn(3, D, generator=rng(), requires_grad=True)
    for bridge in ("detach", "through", "scaled"):
        torch.testing.assert_close(bridged(z, bridge, 0.3), z)


@pytest.mark.parametrize("bridge", ["soft", "st_gumbel"])
@pytest.mark.parametrize("steps", [1, 3])
def test_relaxed_tokens_let_l2t_learn_and_stopped_ones_do_not(bridge, steps):
    for chosen, reaches in ((bridge, True), ("stop", False)):
        t = task(
            net=network("none"), l2t2l={"weight": 1.0, "bridge": chosen, "steps": steps}, **NO_BASE
        )
        t("text_latent", batch(), context())["loss"].backward()
        assert any(n.startswith("text_net.") for n in with_gradient(t)) == reaches


def test_relaxed_weights():
    logits = torch.randn(5, V, generator=rng())
    logits[:, MASK] = -torch.inf
    logits.requires_grad_(True)
    soft, hard = (relaxed(logits, bridge, 0.7, rng()) for bridge in ("soft", "st_gumbel"))
    for weights in (soft, hard):
        torch.testing.assert_close(weights.sum(-1), torch.ones(5))
        assert not weights[:, MASK].any()
    torch.testing.assert_close(hard.max(-1).values, torch.ones(5))
    hard.square()[:, 3].sum().backward()
    assert logits.grad.isfinite().all() and logits.grad.any()
    counts = torch.zeros(V)
    for k in range(3000):
        counts += relaxed(logits[:1].detach(), "st_gumbel", 0.7, rng(k))[0]
    torch.testing.assert_close(counts / 3000, logits[0].softmax(-1).detach(), atol=0.03, rtol=0)


# The latent cycle ---------------------------------------------------------------------------------


def test_pseudo_texts_are_texts_t2l_could_meet():
    m = model()
    cycle = LatentCycle(LatentCycleConfig(weight=1, steps=3, temperature=1.0), m)
    tokens, keep = cycle._texts(Rows.of(batch(64), m), context().noise)
    assert tokens.dtype == torch.int64 and not torch.isin(tokens, torch.tensor([MASK, 0])).any()
    ended = (tokens == EOS).cumsum(1) > 0
    assert (tokens[ended] == EOS).all()
    assert torch.equal(keep, tokens[:, 0] != EOS)


def test_unsure_texts_are_left_out():
    m = model()
    rows = Rows.of(batch(64), m)
    kept = []
    for tau in (0.0, 0.3, 0.5, 0.99):
        cycle = LatentCycle(LatentCycleConfig(weight=1, steps=2, confidence=tau), m)
        loss, parts = cycle(rows, context().noise)
        kept.append(float(parts["cycle_kept"]))
        assert loss.isfinite() and parts["cycle_latent"].shape == ()
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]
    z, keep = torch.randn(2, 3, D, generator=rng()), torch.tensor([True, False, True])
    expected = (z[0] - z[1])[keep].square().mean()
    torch.testing.assert_close(kept_mse(z[0], z[1], keep), expected)
    assert kept_mse(z[0], z[1], keep & False) == 0


def test_shuffled_text_is_another_samples():
    m = model()
    rows = Rows.of(batch(8), m)
    own, other = (
        LatentCycle(LatentCycleConfig(weight=1, source=s), m)._texts(rows, context().noise)[0]
        for s in ("model", "shuffled")
    )
    assert torch.equal(own.roll(1, 0), other)


# Controls -----------------------------------------------------------------------------------------


def test_noise_is_as_far_off_as_the_guess():
    data, wrong, drawn = torch.randn(3, 20, D, generator=rng())
    moved = as_far_off(data, wrong, drawn)
    torch.testing.assert_close((moved - data).norm(dim=1), (wrong - data).norm(dim=1))
    assert torch.cosine_similarity(moved - data, wrong - data).abs().mean() < 0.5


def test_sources_of_the_text_cycle_see_what_they_say():
    m = model()
    pseudo = torch.full((16, D), 0.5)
    rows = Rows.of(batch(pseudo_latents=pseudo), m)
    z = guess(m, TextCycleConfig(), rows, context().noise, graph=False)
    seen = {}
    for source in ("model", "noise", "given", "data"):
        cycle = TextCycle(TextCycleConfig(weight=1, source=source), m)
        seen[source] = cycle._condition(rows, z, context().noise)
    torch.testing.assert_close(seen["model"], z)
    torch.testing.assert_close(seen["given"], pseudo)
    torch.testing.assert_close(seen["data"], rows.latents)
    off = (seen["noise"] - rows.latents).norm(dim=1)
    torch.testing.assert_close(off, (z - rows.latents).norm(dim=1))
    assert not torch.equal(seen["noise"], z)


@pytest.mark.parametrize(
    ("cycle", "forwards"),
    [
        ({"t2l2t": {"weight": 1.0}}, 4),
        ({"t2l2t": {"weight": 1.0, "source": "data"}}, 3),
        ({"t2l2t": {"weight": 1.0, "source": "data", "repeats": 2}}, 4),
        ({"l2t2l": {"weight": 1.0, "steps": 4}}, 7),
        ({"l2t2l": {"weight": 1.0, "source": "data", "repeats": 5}}, 7),
    ],
)
def test_forwards_are_counted_so_that_controls_can_match_them(cycle, forwards):
    assert float(task(**cycle)("text_latent", batch(), context())["forwards"]) == forwards


def test_prior_reaches_t2l_although_the_bridge_is_stopped():
    cycle = []
    for prior, reaches in ((MomentsConfig(weight=1.0, **NOW), True), (MomentsConfig(), False)):
        t = task(net=network("none"), t2l2t={"weight": 1.0}, prior=prior, **NO_BASE)
        parts = t("text_latent", batch(), context())
        parts["loss"].backward()
        assert any(n.startswith("latent_net.") for n in with_gradient(t)) == reaches
        assert ("prior" in parts) == reaches
        assert float(parts["forwards"]) == 2, "one latent serves both"
        cycle.append(parts["cycle_text"])
    assert torch.equal(*cycle), "the prior draws nothing of the cycle's"
