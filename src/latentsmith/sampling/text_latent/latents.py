"""A latent from text (T2L): in one step, or by a diffusion sampler.

A frozen encoder makes the latent of a text a point: what the network says of pure noise in one step
*is* its estimate. A diffusion sampler matters where the text leaves something open.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentsmith.diffusion.denoiser import Denoise, Prediction
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.sampling.noise import StepNoise
from latentsmith.sampling.samplers.base import SamplerConfig


@dataclass(frozen=True)
class LatentSample:
    """Generated latents, normalized: ``latents`` [B, …], and looks at each, ``nfe``."""

    latents: Tensor
    nfe: int


@torch.no_grad()
def one_step(
    model: TextLatentModel, tokens: Tensor, rng: torch.Generator, *, draws: int = 1
) -> LatentSample:
    """The mean of what the network sees in ``draws`` draws of pure noise, for texts int64 [B, L].

    Raises:
        ValueError: no draws.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: one look at least")
    shape = len(tokens), *model.network.latent_shape
    total = torch.zeros(shape, device=tokens.device)
    real = model.process.real(tokens)
    for _ in range(draws):
        noise = torch.randn(shape, generator=rng, device=tokens.device)
        total += model.latents_of(tokens, noise, real=real)
    return LatentSample(total / draws, draws)


@torch.no_grad()
def sample_latents(
    model: TextLatentModel,
    tokens: Tensor | None,
    sampler: SamplerConfig,
    rng: torch.Generator,
    *,
    count: int | None = None,
    guidance: float = 1.0,
) -> LatentSample:
    """Latents by one of the library's samplers (``ddim``, ``ddpm`` …).

    Args:
        tokens: texts int64 [B, L]; None: latents from the marginal, ``count`` of them.
        rng: starting noise and noise of the steps.
        guidance: scale of classifier-free guidance away from latents without a text; 1: none.
    """
    absent = tokens is None
    if tokens is None:
        tokens = model.absent_text(count or 1)
    denoise, looks = denoiser(model, tokens, 1.0 if absent else 0.0, guidance)
    shape = len(tokens), *model.network.latent_shape
    z = torch.randn(shape, generator=rng, device=tokens.device)
    latents = sampler.sample(
        denoise, z, path=model.path, noise=stream(rng, len(tokens)), start=model.t_max
    )
    return LatentSample(latents, looks[0])


def denoiser(
    model: TextLatentModel, tokens: Tensor, t_text: float, guidance: float
) -> tuple[Denoise, list[int]]:
    """What samplers take, for texts int64 [B, L] at time ``t_text``; and a counter of looks."""
    looks, real = [0], model.process.real(tokens)

    def look(text: Tensor, z: Tensor, t: Tensor, at: float, places: Tensor | None) -> Prediction:
        looks[0] += 1
        out = model(text, z, torch.full_like(t, at), t, real=places).latent
        assert out is not None
        return Prediction.of(out, z, t, model.path, model.predicts)

    def denoise(z: Tensor, t: Tensor) -> Prediction:
        given = look(tokens, z, t, t_text, real)
        if guidance == 1:
            return given
        return look(model.absent_text(len(z)), z, t, 1.0, None).blend(given, guidance)

    return denoise, looks


def stream(rng: torch.Generator, count: int) -> StepNoise:
    """A generator as the noise of steps."""

    def noise(step: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(count, *shape, generator=rng, device=rng.device)

    return noise
