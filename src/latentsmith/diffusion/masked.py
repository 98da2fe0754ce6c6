"""Masked (absorbing) diffusion of text: Sahoo et al. 2024 (MDLM, arXiv 2406.07524).

    q(masked at t) = p(t) = eps + (1 − eps) t for t > 0, and 0 at t = 0      (log-linear: p ∝ t)
    q(x_s | x_t, x): a masked place stays masked with p(s)/p(t), else it shows x
    −log p(x) ≤ ∫ dp/p  E Σ_masked −log p̂(x_i | x_t)

SUBS: the mask is never predicted (its logit is −∞), and what is not masked is carried over. So all
that is ever computed are distributions over real tokens at masked places.

Time is the library's: t = 0 text, t = 1 all masked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

TextLoss = Literal["mean", "elbo", "clip"]
CLIP = 5.0
"""Largest weight of a masked place in the loss ``clip``."""

RowLosses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noised tokens [B, L], t [B], masked bool [B, L]) → summed cross-entropy of the masked places of
each sample [B]."""


@dataclass(frozen=True)
class MaskedText:
    """The absorbing process over token ids.

    Attributes:
        vocabulary: V, number of ids, the mask's among them.
        mask: the id of a masked place.
        eos: the id that ends a text; None: texts have no end.
        pad: the id of places without text, never predicted; None: there is none.
        known_length: texts end in padding, and the network is told where (an oracle); otherwise
            EOS fills them up, and is predicted like any token.
        eps: p just above t = 0.
    """

    vocabulary: int
    mask: int
    eos: int | None = None
    pad: int | None = None
    known_length: bool = False
    eps: float = 1e-3

    def real(self, tokens: Tensor) -> Tensor | None:
        """Which places of tokens [B, L] hold text, bool [B, L]; None: all."""
        return tokens != self.pad if self.known_length else None

    def share(self, t: Tensor) -> Tensor:
        """p(t), the probability that a place is masked; any shape."""
        return torch.where(t > 0, self.eps + (1 - self.eps) * t, 0.0)

    def time(self, share: Tensor) -> Tensor:
        """The t with p(t) = ``share``; 0 for shares below eps."""
        return ((share - self.eps) / (1 - self.eps)).clamp(0, 1)

    def masks(
        self, t: Tensor, u: Tensor, real: Tensor | None = None, *, at_least_one: bool = True
    ) -> Tensor:
        """Which places are masked, bool [B, L].

        Args:
            t: times [B].
            u: uniform draws [B, L].
            real: bool [B, L], places that hold text; others are never masked. None: all.
            at_least_one: mask the first to go where t > 0 and chance spared all. It lifts p a
                little at small t, which a bound on the likelihood may not have.
        """
        if real is not None:
            u = u.masked_fill(~real, 2.0)
        p = self.share(t)[:, None].to(u)
        masked = u < p
        if at_least_one:
            first = F.one_hot(u.argmin(1), u.shape[1]).bool()
            masked = masked | (first & (p > 0))
        return masked if real is None else masked & real

    def hide(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """Tokens [B, L] with the mask at the places ``masked`` bool [B, L]."""
        return torch.where(masked, self.mask, tokens)

    def keeps_mask(self, t: float, s: float) -> float:
        """Probability that a place masked at ``t`` is still masked at ``s`` < t: p(s)/p(t), of the
        exact posterior given the text."""
        if s <= 0:
            return 0.0
        wide = torch.tensor([s, t], dtype=torch.float64)
        p = self.share(wide)
        return float(p[0] / p[1])

    def subs(self, logits: Tensor) -> Tensor:
        """Logits [..., V] with −∞ at the mask and the padding, in place: a copy of a wide
        vocabulary costs. So does clearing their gradients, which a softmax leaves at 0 anyway."""
        with torch.no_grad():
            for never in {self.mask, self.pad} - {None}:
                logits[..., never] = -torch.inf
        return logits

    def cross_entropies(self, logits: Tensor, targets: Tensor) -> Tensor:
        """−log p̂ of each target [M] from logits [M, V], float32 or wider; changes the logits."""
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits if logits.dtype.itemsize >= 4 else logits.float()
            return F.cross_entropy(self.subs(wide), targets, reduction="none")

    def fill_after_eos(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L] with nothing but EOS after the first one: what texts look like in
        training. As they are without an EOS, or where lengths are known."""
        if self.eos is None or self.known_length:
            return tokens
        ended = (tokens == self.eos).cumsum(1) > 0
        return torch.where(ended, self.eos, tokens)


def text_loss(losses: Tensor, share: Tensor, kind: TextLoss, places: int) -> Tensor:
    """Scalar loss of all masked places.

    Args:
        losses: cross-entropy at each masked place [M].
        share: p(t) of that place's sample [M].
        kind: ``mean`` over masked places; ``elbo``, weighted by 1/p and per place, masked or not;
            ``clip``, the same with weights of at most `CLIP`.
        places: all real places of the samples that are scored.

    Returns:
        0 with a gradient of 0 where nothing is masked.
    """
    if kind == "mean":
        return losses.sum() / max(len(losses), 1)
    factor = (1 / share).clamp(max=CLIP if kind == "clip" else math.inf)
    return (losses * factor.to(losses)).sum() / max(places, 1)


@torch.no_grad()
def nll_bound(
    process: MaskedText,
    tokens: Tensor,
    row_losses: RowLosses,
    rng: torch.Generator,
    *,
    draws: int = 1,
    real: Tensor | None = None,
) -> Tensor:
    """Estimated upper bound of −log p(text), nats per sample, float64 [B].

        E over k uniform in 1 … L, and over sets S of k places, of  (L/k) Σ_S −log p̂(x_i | rest)

    the bound's integral with the masked *number* drawn instead of the share: less variance
    (LLaDA: Nie et al. 2025, arXiv 2502.09992, eq. 14). It is the mean over all orders of writing
    the text one token at a time, so it is a bound whatever the network makes of t.

    Args:
        tokens: int64 [B, L].
        row_losses: the model. Its t is the one at which p(t) = k/L.
        rng: its draws are all that is random; of several draws, the k are spread evenly.
        draws: looks at each text.
        real: bool [B, L], places that hold text; None: all.
    """
    device, shape = tokens.device, tokens.shape
    length = tokens.new_full((len(tokens),), shape[1]) if real is None else real.sum(1)  # [B]
    start = torch.rand(len(tokens), generator=rng, device=device)
    total = torch.zeros(len(tokens), dtype=torch.float64, device=device)
    for draw in range(draws):
        u = (start + draw / draws) % 1
        k = (u * length).long().clamp(max=length - 1) + 1  # [B]
        order = torch.rand(shape, generator=rng, device=device)
        if real is not None:
            order = order.masked_fill(~real, 2.0)
        masked = order.argsort(1).argsort(1) < k[:, None]
        t = process.time(k / length)
        losses = row_losses(process.hide(tokens, masked), t, masked)
        total += losses.double() * length / k / draws
    return total
