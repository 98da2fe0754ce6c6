"""Best of N texts, judged by the model's own other direction, and a search that begins there.

    y* = argmin over n of |G_z(y_n) − z|,   y_1 … y_N decoded from z

    each round   places of every candidate are hidden, a share of them that is drawn, and written
                 anew given z and the rest; of old and new ones the N nearest stay

A model of both directions needs no encoder to search with: vec2text (Morris et al. 2023, arXiv
2310.06816) owes most of its exact matches to a search, but one that asks the real encoder at every
step, and a second network that corrects. Here a text is corrected by the network that wrote it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.sampling.text_latent.decode import decode
from latentsmith.sampling.text_latent.latents import one_step
from latentsmith.sampling.text_latent.tokens import TextSample, TextSamplerConfig

Read = Callable[[Tensor], Tensor]
"""Token rows [M, L] → normalized latents [M, …]."""
MOST_HIDDEN = 0.6
"""Share of a candidate's places hidden in a round, at most."""


@dataclass(frozen=True)
class Candidates:
    """Texts of B latents, N of each, best first.

    Attributes:
        tokens: int64 [B, N, L], without masks.
        off: distance of what each is read as from the latent, normalized [B, N].
        confidence: geometric mean of the probability of the tokens drawn last [B, N].
        nfe: looks of the network at each latent.
    """

    tokens: Tensor
    off: Tensor
    confidence: Tensor
    nfe: int

    def best(self) -> TextSample:
        """The first of each latent."""
        return TextSample(self.tokens[:, 0], self.confidence[:, 0], self.nfe)


@torch.no_grad()
def search(
    model: TextLatentModel,
    latents: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    *,
    candidates: int,
    rounds: int = 0,
    draws: int = 1,
    read: Read | None = None,
) -> Candidates:
    """``candidates`` texts of each latent [B, …], the ones read back nearest to it first.

    Args:
        config: with a temperature above 0: else all candidates are the same.
        rounds: of hiding, writing anew and keeping the nearest; 0: the texts as first drawn.
        draws: of T2L's noise.
        read: who reads texts; None: the model's T2L, in one step.

    Raises:
        ValueError: less than one candidate, or rounds below 0.
    """
    if candidates < 1 or rounds < 0:
        raise ValueError(f"candidates={candidates}: one at least; rounds={rounds}: 0 or more")
    wanted = latents.repeat_interleave(candidates, 0)
    nfe = 0

    def write(given: Tensor | None) -> Candidates:
        nonlocal nfe
        texts = decode(model, wanted, config, rng, given=given)
        if read is None:
            back = one_step(model, texts.tokens, rng, draws=draws).latents
        else:
            back = read(texts.tokens)
        off = (back - wanted).flatten(1).norm(dim=1)
        nfe += candidates * (texts.nfe + (draws if read is None else 0))
        each = texts.tokens, off, texts.confidence
        tokens, off, confidence = (x.unflatten(0, (-1, candidates)) for x in each)
        return Candidates(tokens, off, confidence, nfe)

    pool = _nearest([write(None)], candidates)
    for _ in range(rounds):
        anew = write(_hidden(model, pool.tokens.flatten(0, 1), rng))
        pool = _nearest([pool, anew], candidates)
    return pool


def _hidden(model: TextLatentModel, tokens: Tensor, rng: torch.Generator) -> Tensor:
    """Rows [M, L] with the mask at a drawn share of their places, at one of them at least."""
    u = torch.rand(tokens.shape, generator=rng, device=tokens.device)
    share = torch.rand((len(tokens), 1), generator=rng, device=tokens.device) * MOST_HIDDEN
    real = model.process.real(tokens)
    if real is not None:
        u = u.masked_fill(~real, torch.inf)
    hidden = (u < share) | (u == u.amin(1, keepdim=True))
    return model.process.hide(tokens, hidden)


def _nearest(pools: list[Candidates], count: int) -> Candidates:
    """The nearest ``count`` of all, no text twice while there are others."""
    tokens, off, confidence = (
        torch.cat([getattr(pool, name) for pool in pools], 1)
        for name in ("tokens", "off", "confidence")
    )
    order = off.argsort(dim=1, stable=True)
    if len(pools) > 1:
        ranked = tokens.gather(1, order[..., None].expand_as(tokens))
        same = (
            (ranked[:, :, None] == ranked[:, None]).all(-1).tril(-1).any(-1)
        )  # [B, N], seen before
        order = order.gather(1, same.long().argsort(dim=1, stable=True))
    order = order[:, :count]
    kept = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
    return Candidates(kept, off.gather(1, order), confidence.gather(1, order), pools[-1].nfe)
