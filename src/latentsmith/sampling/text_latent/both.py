"""Text and latent from noise: one after the other, or together.

sequential   a latent without a text, then its text; or a text without a latent, then its latent
joint        both along one way u from 1 to 0: t_lat = max(0, (u − lag)/(1 − lag)),
             t_text = min(1, u/(1 − lag)); with a lag the latent is ahead
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentsmith.diffusion.denoiser import Prediction
from latentsmith.diffusion.paths import weight
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.errors import UserError
from latentsmith.sampling.samplers.base import SamplerConfig
from latentsmith.sampling.text_latent.decode import decode, show
from latentsmith.sampling.text_latent.latents import one_step, sample_latents
from latentsmith.sampling.text_latent.tokens import Canvas, Odds, TextSamplerConfig


@dataclass(frozen=True)
class PairSample:
    """Generated pairs.

    Attributes:
        tokens: int64 [B, L], without masks.
        latents: normalized [B, …].
        nfe: looks at each pair.
    """

    tokens: Tensor
    latents: Tensor
    nfe: int


@torch.no_grad()
def sequential(
    model: TextLatentModel,
    count: int,
    text: TextSamplerConfig,
    sampler: SamplerConfig,
    rng: torch.Generator,
    *,
    first: Literal["latent", "text"] = "latent",
) -> PairSample:
    """``count`` pairs, the ``first`` of both from its marginal, the other from it.

    Args:
        text: how texts are decoded.
        sampler: of latents (``ddim``, ``ddpm`` …); text first: the latent is read off in one step.
    """
    if first == "latent":
        made = sample_latents(model, None, sampler, rng, count=count)
        said = decode(model, made.latents, text, rng)
        return PairSample(said.tokens, made.latents, made.nfe + said.nfe)
    shape = count, *model.network.latent_shape
    noise = torch.randn(shape, generator=rng, device=model.device)
    said = decode(model, noise, text, rng, absent=True)
    made = one_step(model, said.tokens, rng)
    return PairSample(said.tokens, made.latents, made.nfe + said.nfe)


@torch.no_grad()
def joint(
    model: TextLatentModel,
    count: int,
    text: TextSamplerConfig,
    rng: torch.Generator,
    *,
    lag: float = 0.0,
) -> PairSample:
    """``count`` pairs, text and latent denoised together in ``text.steps`` looks: DDIM for the
    latent, ancestral steps for the text (whatever ``text.kind``), from one look each.

    Args:
        lag: how far the latent is ahead, in [0, 1).

    Raises:
        UserError: a lag outside [0, 1), or guidance, which here has nothing to lead away from.
    """
    if text.guidance != 1:
        raise UserError(f"guidance={text.guidance:g}: text and latent together have no condition")
    if not 0 <= lag < 1:
        raise UserError(f"lag={lag:g} must be at least 0 (together) and below 1")
    canvas = Canvas.blank(model, count, None)
    shape = count, *model.network.latent_shape
    z = torch.randn(shape, generator=rng, device=model.device)
    ways = torch.linspace(1, 0, text.steps + 1, dtype=torch.float64)
    t_text = (ways / (1 - lag)).clamp(max=1).tolist()
    t_lat = ((ways - lag) / (1 - lag)).clamp(min=0).mul(model.t_max).tolist()
    for k in range(text.steps):
        z = _joint_step(model, canvas, z, text, rng, (t_text[k], t_text[k + 1]), t_lat[k : k + 2])
    return PairSample(model.process.fill_after_eos(canvas.tokens), z, canvas.nfe)


def _joint_step(
    model: TextLatentModel,
    canvas: Canvas,
    z: Tensor,
    config: TextSamplerConfig,
    rng: torch.Generator,
    text: tuple[float, float],
    latent: list[float],
) -> Tensor:
    """One look; the text goes from and to the times ``text``, the latent to ``latent[1]``."""
    masked = canvas.masked(model)
    places = masked.flatten().nonzero().squeeze(1)
    t = torch.full((len(z),), latent[0], device=z.device)
    out = model(canvas.tokens, z, torch.full_like(t, text[0]), t, positions=places)
    canvas.nfe += 1
    assert out.logits is not None and out.latent is not None
    odds = Odds(model.process.subs(out.logits), places)
    show(model, canvas, masked, odds, config, rng, *text)
    if latent[0] == 0:
        return z
    seen = Prediction.of(out.latent, z, t, model.path, model.predicts)
    s = torch.full_like(t, latent[1]).double()
    return weight(model.path.alpha(s), z) * seen.data + weight(model.path.sigma(s), z) * seen.noise
