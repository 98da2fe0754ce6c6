"""Text from a latent (L2T), by one of two samplers.

confidence   every place is guessed, the surest guesses are kept, the others masked again; after
             step i of S, L cos(π/2 · i/S) places are masked (MaskGIT: Chang et al. 2022; LLaDA)
ancestral    the exact posterior of the masks: a masked place is shown with 1 − p(s)/p(t)

Known tokens are carried over: given a text with masks, both fill it in.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.sampling.text_latent.tokens import (
    Canvas,
    Odds,
    TextSample,
    TextSamplerConfig,
    masked_odds,
    spread_out,
)


@torch.no_grad()
def decode(
    model: TextLatentModel,
    latents: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    *,
    given: Tensor | None = None,
    absent: bool = False,
) -> TextSample:
    """Texts of latents.

    Args:
        latents: normalized [B, …].
        rng: on the latents' device; everything that is random.
        given: int64 [B, L], what is known of the texts, the mask elsewhere (and padding, for texts
            of known length); None: nothing.
        absent: the latents say nothing, they are noise: texts from the marginal.
    """
    canvas = Canvas.blank(model, len(latents), given)
    sampler = confidence if config.kind == "confidence" else ancestral
    sampler(model, canvas, latents, config, rng, model.t_max if absent else 0.0)
    return canvas.sample(model)


def confidence(
    model: TextLatentModel,
    canvas: Canvas,
    latents: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    t_lat: float,
    *,
    leave: int = 0,
) -> None:
    """Fill the canvas, the surest tokens first. ``leave``: last steps not to take."""
    free = canvas.masked(model).sum(1)  # [B], places to fill in
    length = canvas.tokens.shape[1] if canvas.real is None else canvas.real.sum(1)
    steps = max(1, min(config.steps, int(free.max())))
    times = torch.full((len(latents),), t_lat, device=latents.device)
    for step in range(1, steps + 1 - leave):
        masked = canvas.masked(model)
        if not bool(masked.any()):
            return
        t_text = model.process.time(masked.sum(1) / length).float()
        odds = masked_odds(model, canvas, latents, t_text, times, config.guidance, rng)
        tokens, sure = _guesses(odds, canvas, config, rng)
        goal = (free * remaining(config.schedule, step / steps)).floor().long()  # [B]
        shown = masked.sum(1) - goal
        if step < steps:
            shown = shown.clamp(min=1)  # the cosine starts flat
        order = sure.masked_fill(~masked, -torch.inf).argsort(1, descending=True)
        rank = order.argsort(1)
        canvas.put(masked & (rank < shown[:, None]), tokens, sure)


def remaining(schedule: str, done: float) -> float:
    """Share of the places that are masked when the share ``done`` of the steps is; exactly 0 at
    the end."""
    if done >= 1:
        return 0.0
    return math.cos(math.pi / 2 * done) if schedule == "cosine" else 1 - done


def ancestral(
    model: TextLatentModel,
    canvas: Canvas,
    latents: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    t_lat: float,
) -> None:
    """Fill the canvas by the diffusion's reverse steps, from t = 1 to 0."""
    grid = torch.linspace(1, 0, config.steps + 1, dtype=torch.float64).tolist()
    times = torch.full((len(latents),), t_lat, device=latents.device)
    for t, s in pairwise(grid):
        if not bool(canvas.masked(model).any()):
            return
        ancestral_step(model, canvas, latents, times, config, rng, t, s)


def ancestral_step(
    model: TextLatentModel,
    canvas: Canvas,
    latents: Tensor,
    t_lat: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    t: float,
    s: float,
) -> None:
    """From time ``t`` of the text to ``s``, its latents at times ``t_lat`` [B]."""
    masked = canvas.masked(model)
    t_text = torch.full_like(t_lat, t)
    odds = masked_odds(model, canvas, latents, t_text, t_lat, config.guidance, rng)
    show(model, canvas, masked, odds, config, rng, t, s)


def show(
    model: TextLatentModel,
    canvas: Canvas,
    masked: Tensor,
    odds: Odds,
    config: TextSamplerConfig,
    rng: torch.Generator,
    t: float,
    s: float,
) -> None:
    """Show each masked place with probability 1 − p(s)/p(t), with a token drawn from ``odds``."""
    tokens, sure = _guesses(odds, canvas, config, rng)
    u = torch.rand(masked.shape, generator=rng, device=masked.device, dtype=torch.float64)
    canvas.put(masked & (u >= model.process.keeps_mask(t, s)), tokens, sure)


def _guesses(
    odds: Odds, canvas: Canvas, config: TextSamplerConfig, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A token for each masked place, and its log-probability, both [B, L]."""
    token, sure = odds.guess(config, rng)
    return (
        spread_out(token, odds.places, canvas.tokens, 0),
        spread_out(sure, odds.places, canvas.tokens, 0.0),
    )
