"""Linear discriminants of tokens, against the formula written out and against frequencies."""

import pytest
import torch

from latentsmith.data.text.tokens.base import EOS_ID, PAD_ID
from latentsmith.errors import UserError
from latentsmith.metrics.token_odds import RIDGE, TokenOdds

V, L, D = 12, 6, 5


def corpus(count, seed=0):
    """Texts whose latents are sums of their tokens' vectors, and noise."""
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(V, D, generator=torch.Generator().manual_seed(9))
    ids = torch.randint(2, V, (count, L), generator=rng)
    length = torch.randint(2, L, (count, 1), generator=rng)
    there = torch.arange(L) < length
    latents = (vectors[ids] * there[..., None]).sum(1) + 0.3 * torch.randn(count, D, generator=rng)
    return torch.where(there, ids, EOS_ID), latents


def test_it_is_the_formula():
    ids, latents = corpus(40)
    ids[:, -1] = PAD_ID  # counts nowhere
    found = TokenOdds.fit(ids, latents, ids, latents, vocabulary=V, shrinks=[3.0], scales=[0.7])
    x = latents.double()
    pairs = [(n, int(t)) for n, row in enumerate(ids) for t in row if t != PAD_ID]
    all_rows = torch.stack([x[n] for n, _ in pairs])
    mean = all_rows.mean(0)
    covariance = torch.cov(all_rows.T, correction=0)
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(D)
    for token in range(V):
        own = [x[n] for n, t in pairs if t == token]
        center = (sum(own) + 3.0 * mean) / (len(own) + 3.0) if own else mean
        weight = 0.7 * torch.linalg.solve(covariance, center - mean)
        share = (len(own) + 0.5) / (len(pairs) + 0.5 * V)
        bias = torch.tensor(share).double().log() - weight @ (center + mean) / 2
        torch.testing.assert_close(found.weight[token], weight)
        torch.testing.assert_close(found.bias[token], bias)


def test_it_beats_frequencies_on_held_out_texts_and_takes_the_best():
    train, val = corpus(2_000), corpus(500, seed=1)
    grid = {"shrinks": [1.0, 50.0], "scales": [0.0, 0.3, 5.0]}
    found = TokenOdds.fit(*train, *val, vocabulary=V, **grid)
    each = [
        TokenOdds.fit(*train, *val, vocabulary=V, shrinks=[k], scales=[s])
        for k in grid["shrinks"]
        for s in grid["scales"]
    ]
    assert found.nats == min(one.nats for one in each)
    frequencies = next(one.nats for one in each if one.scale == 0)
    assert found.nats < frequencies - 0.1
    odds = found(val[1]).log_softmax(1)
    there = val[0] != PAD_ID
    nats = -odds.gather(1, val[0])[there].mean()
    assert nats == pytest.approx(found.nats, rel=1e-4)


def test_mistakes_are_told():
    ids, latents = corpus(4)
    with pytest.raises(UserError, match="token odds"):
        TokenOdds.fit(ids[:0], latents[:0], ids, latents, vocabulary=V)
    with pytest.raises(UserError, match="latents"):
        TokenOdds.fit(ids, latents * float("nan"), ids, latents, vocabulary=V)
