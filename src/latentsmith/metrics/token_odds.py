"""Which tokens a text has, log-linear in its latent: a linear discriminant of every token.

    log p(v | z) = U_v z + d_v + …
    U_v = s Σ⁻¹ (μ_v − μ),   d_v = log π_v − s (μ_v + μ)ᵀ Σ⁻¹ (μ_v − μ)/2

μ_v is the mean latent of the texts that have token v, drawn towards the mean of all as if k more
texts had it; Σ is the latents' covariance (Fisher 1936; Hastie, Tibshirani & Friedman, The Elements
of Statistical Learning, 4.3). k and the scale s, which takes back what sparse means overstate, are
chosen on validation texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from latentsmith.data.text.tokens.base import PAD_ID
from latentsmith.metrics.checks import check_count, check_finite

SHRINKS = (5.0, 20.0, 50.0)
"""k tried."""
SCALES = (0.05, 0.1, 0.2, 0.3)
"""s tried."""
RIDGE = 1e-3
"""Added to Σ, in units of its mean variance."""
CHOSEN_ON = 1_000
"""Validation texts that k and s are chosen on, at most."""


@dataclass(frozen=True)
class TokenOdds:
    """See the module's text.

    Attributes:
        weight: U, float64 [V, D].
        bias: d [V].
        shrink, scale: what was chosen.
        nats: of a token of the validation texts, its place unknown.
    """

    weight: Tensor
    bias: Tensor
    shrink: float
    scale: float
    nats: float

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents [N, …] → log-odds [N, V], float64."""
        return latents.double().flatten(1) @ self.weight.T + self.bias

    @classmethod
    def fit(
        cls,
        ids: Tensor,
        latents: Tensor,
        val_ids: Tensor,
        val_latents: Tensor,
        *,
        vocabulary: int,
        shrinks: Sequence[float] = SHRINKS,
        scales: Sequence[float] = SCALES,
    ) -> "TokenOdds":
        """Fit on training texts [M, L] with latents [M, …]. EOS counts as a token at each of its
        places, PAD at none.

        Raises:
            UserError: no texts, or NaN.
        """
        check_count(len(ids), 1, "token odds", "training text")
        x = check_finite(latents, "latents").double().flatten(1)
        text, token = _places(ids)
        counts = token.bincount(minlength=vocabulary).double()
        sums = _sums(text, token, x, vocabulary)
        mean, covariance = _moments(x, text.bincount(minlength=len(x)).double())
        prior = ((counts + 0.5) / (counts + 0.5).sum()).log()
        best: TokenOdds | None = None
        few = slice(CHOSEN_ON)
        for shrink, scale in product(shrinks, scales):
            apart = (sums - counts[:, None] * mean) / (counts[:, None] + shrink)  # μ_v − μ
            weight = scale * torch.linalg.solve(covariance, apart.T).T
            bias = prior - weight @ mean - (weight * apart).sum(1) / 2
            nats = _nats(weight, bias, val_latents[few], val_ids[few])
            if best is None or nats < best.nats:
                best = cls(weight, bias, shrink, scale, nats)
        if best is None:
            raise ValueError("nothing to choose from")
        return best


def _places(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Text and token of every place that is predicted, int64 [P] each."""
    there = ids != PAD_ID
    return there.nonzero()[:, 0], ids[there]


def _sums(text: Tensor, token: Tensor, x: Tensor, vocabulary: int) -> Tensor:
    """Sum over each token's places of the latents of their texts, [V, D]; as a sparse product: a
    row for every place would be gigabytes."""
    ones = torch.ones(len(text), dtype=x.dtype)
    where = torch.stack([token, text])
    size = vocabulary, len(x)
    return torch.sparse.mm(torch.sparse_coo_tensor(where, ones, size, check_invariants=False), x)


def _moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of rows, each with its weight; invertible."""
    share = weights / weights.sum()
    mean = share @ x
    covariance = (x.T * share) @ x - torch.outer(mean, mean)
    ridge = RIDGE * covariance.diagonal().mean()
    return mean, covariance + ridge * torch.eye(len(covariance), dtype=x.dtype)


def _nats(weight: Tensor, bias: Tensor, latents: Tensor, ids: Tensor) -> float:
    """Cross-entropy of the tokens of texts, in float32."""
    odds = torch.addmm(bias.float(), latents.float().flatten(1), weight.float().T)
    text, token = _places(ids)
    return -float(odds.log_softmax(1)[text, token].mean())
