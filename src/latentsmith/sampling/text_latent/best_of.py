"""Best of N texts, judged by the model's own other direction.

    y* = argmin over n of |G_z(y_n) − z|,   y_1 … y_N decoded from z

A model of both directions needs no encoder to search with: vec2text (Morris et al. 2023) owes most
of its exact matches to a search, but one that asks the real encoder at every step.
"""

import torch
from torch import Tensor

from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.sampling.text_latent.decode import decode
from latentsmith.sampling.text_latent.latents import one_step
from latentsmith.sampling.text_latent.tokens import TextSample, TextSamplerConfig


@torch.no_grad()
def best_of(
    model: TextLatentModel,
    latents: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    *,
    candidates: int,
    draws: int = 1,
) -> TextSample:
    """Of ``candidates`` texts of each latent [B, …], the one that T2L maps nearest to it.

    Args:
        config: with a temperature above 0: else all candidates are the same.
        draws: of T2L's noise.

    Raises:
        ValueError: less than one candidate.
    """
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: one at least")
    wanted = latents.repeat_interleave(candidates, 0)
    texts = decode(model, wanted, config, rng)
    back = one_step(model, texts.tokens, rng, draws=draws)
    off = (back.latents - wanted).flatten(1).norm(dim=1).view(-1, candidates)
    rows = off.argmin(1) + candidates * torch.arange(len(latents), device=latents.device)
    return TextSample(
        texts.tokens[rows], texts.confidence[rows], candidates * (texts.nfe + back.nfe)
    )
