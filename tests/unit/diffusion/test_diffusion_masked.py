"""Masked diffusion of text: what is hidden, what is said, and the bound."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from helpers.text_latent import rng
from latentsmith.diffusion.masked import MaskedText, nll_bound, text_loss

SMALL = MaskedText(vocabulary=4, mask=3)
"""Three tokens and the mask."""


def test_shares_and_times():
    p = SMALL.share(torch.tensor([0.0, 1e-9, 0.5, 1.0]).double())
    assert p[0] == 0 and p[3] == 1
    torch.testing.assert_close(p[1:3], torch.tensor([1e-3, 0.5005]).double(), rtol=1e-6, atol=0)
    t = torch.linspace(0.01, 1, 20).double()
    torch.testing.assert_close(SMALL.time(SMALL.share(t)), t)


def test_subs_never_says_mask_or_padding():
    process = MaskedText(5, mask=4, pad=0)
    logits = torch.randn(7, 5, generator=rng(), dtype=torch.float64)
    p = process.subs(logits.clone()).softmax(-1)
    assert not p[:, [0, 4]].any()
    torch.testing.assert_close(p.sum(-1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(p[:, 1:4], logits[:, 1:4].softmax(-1))


def test_subs_gradient_is_finite_and_of_real_tokens_alone():
    logits = torch.randn(3, 4, generator=rng(), requires_grad=True)
    SMALL.cross_entropies(logits.clone(), torch.tensor([0, 1, 2])).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[:, 3].any() and logits.grad[:, :3].any()


def test_masked_share_is_p():
    t = torch.tensor([0.0, 0.1, 0.5, 1.0]).repeat_interleave(4000)
    u = torch.rand(len(t), 10, generator=rng())
    share = SMALL.masks(t, u, at_least_one=False).float().view(4, -1).mean(1)
    torch.testing.assert_close(
        share, SMALL.share(torch.tensor([0.0, 0.1, 0.5, 1.0])), atol=0.01, rtol=0
    )
    assert share[0] == 0 and share[3] == 1


def test_at_least_one_place_is_masked_but_none_at_t_0_and_no_padding():
    t = torch.tensor([0.0, 1e-6, 1e-6, 1.0])
    real = torch.arange(6) < torch.tensor([[6], [6], [2], [4]])
    u = torch.rand(4, 6, generator=rng())
    masked = SMALL.masks(t, u, real)
    assert masked.sum(1).tolist() == [0, 1, 1, 4]
    assert not (masked & ~real).any()


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (0.6, 0.2), (0.2, 0.0)])
def test_posterior_keeps_the_marginal(t, s):
    """P(masked at s) = P(masked at t) P(kept | masked at t), and P(shown) is the rest: the rows of
    the posterior sum to 1 and their mixture is q(x_s | x)."""
    p = SMALL.share(torch.tensor([t, s], dtype=torch.float64))
    keep = SMALL.keeps_mask(t, s)
    assert 0 <= keep < 1
    assert float(p[0]) * keep == pytest.approx(float(p[1]), abs=1e-12)
    # Bayes with every path: masked at t from masked or shown at s
    forwards = float((p[0] - p[1]) / (1 - p[1]))  # shown at s, masked at t
    bayes = float(p[1]) / (float(p[1]) + float(1 - p[1]) * forwards)
    assert keep == pytest.approx(bayes, abs=1e-12)


def test_loss_kinds():
    losses, share = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.1, 1.0])
    assert float(text_loss(losses, share, "mean", 6)) == pytest.approx(7 / 3)
    assert float(text_loss(losses, share, "elbo", 6)) == pytest.approx((2 + 20 + 4) / 6)
    assert float(text_loss(losses, share, "clip", 6)) == pytest.approx((2 + 10 + 4) / 6)
    for kind in ("mean", "elbo", "clip"):
        nothing = text_loss(losses[:0], share[:0], kind, 0)
        assert float(nothing) == 0


def table_model():
    """p̂(x_i | what is seen) from a table of random logits: any dependence there is."""
    logits = torch.randn(4, 4, 2, 4, generator=rng(5), dtype=torch.float64)  # [hidden, place, V]

    def row_losses(hidden, t, masked):
        said = SMALL.subs(logits[hidden[:, 0], hidden[:, 1]].clone())  # [B, 2, V]
        losses = F.cross_entropy(said.transpose(1, 2), truth(hidden, masked), reduction="none")
        return torch.where(masked, losses, 0.0).sum(1)

    def truth(hidden, masked):
        return row_losses.tokens.expand_as(hidden)  # type: ignore[attr-defined]

    return row_losses


def test_bound_is_the_mean_over_orders_and_the_integral():
    """V = 3, L = 2: the k-of-L estimator's mean is −log p averaged over both orders of writing, and
    the integral over t of the continuous bound."""
    losses, text = table_model(), torch.tensor([[2, 0]])
    losses.tokens = text
    estimate = nll_bound(SMALL, text.expand(40_000, 2), losses, rng()).mean()

    def one(masked):
        places = torch.tensor([masked])
        return float(losses(SMALL.hide(text, places), torch.zeros(1), places))

    def at(place, masked):  # −log p̂ of one place
        alone = [i == place for i in range(2)]
        hidden = SMALL.hide(text, torch.tensor([masked]))
        return float(losses(hidden, torch.zeros(1), torch.tensor([alone])))

    both = [True, True]
    orders = [at(first, both) + at(1 - first, [i != first for i in range(2)]) for first in range(2)]
    brute = sum(orders) / 2
    assert float(estimate) == pytest.approx(brute, rel=0.01)

    def integrand(p):  # E Σ masked / p, dp
        sets = itertools.product([False, True], repeat=2)
        weights = {m: math.prod(p if x else 1 - p for x in m) for m in sets}
        return sum(w * one(list(m)) for m, w in weights.items()) / p

    points = (torch.arange(200).double() + 0.5) / 200
    integral = sum(integrand(float(p)) for p in points) / 200
    assert integral == pytest.approx(brute, rel=1e-4)


def test_bound_of_a_uniform_model_is_exact_and_padding_is_not_counted():
    def uniform(hidden, t, masked):
        return masked.sum(1) * math.log(3)

    text = torch.zeros(5, 6, dtype=torch.int64)
    real = torch.arange(6) < torch.tensor([[1], [2], [3], [4], [6]])
    got = nll_bound(SMALL, text, uniform, rng(), draws=3, real=real)
    torch.testing.assert_close(got, real.sum(1) * math.log(3), check_dtype=False)
    got = nll_bound(SMALL, text, uniform, rng())
    torch.testing.assert_close(got, torch.full((5,), 6 * math.log(3)), check_dtype=False)


def test_bound_tells_the_time_of_its_masks():
    seen = []

    def look(hidden, t, masked):
        torch.testing.assert_close(SMALL.share(t), masked.sum(1) / 6)
        seen.append(masked.sum(1))
        return torch.zeros(len(t))

    nll_bound(SMALL, torch.zeros(500, 6, dtype=torch.int64), look, rng(), draws=2)
    assert set(torch.cat(seen).tolist()) == {1, 2, 3, 4, 5, 6}


def test_after_eos_comes_nothing_else():
    process = MaskedText(6, mask=5, eos=1)
    text = torch.tensor([[2, 1, 3, 4], [2, 3, 4, 2], [1, 1, 2, 1]])
    assert process.fill_after_eos(text).tolist() == [[2, 1, 1, 1], [2, 3, 4, 2], [1, 1, 1, 1]]
    known = MaskedText(6, mask=5, eos=1, pad=0, known_length=True)
    assert torch.equal(known.fill_after_eos(text), text)
