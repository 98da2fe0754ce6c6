r"""The learned variance of a DDPM's reverse steps, and the bound that trains it.

Nichol & Dhariwal 2021 (arXiv 2102.09672), on the steps i of a `VPPath`, ᾱ₋₁ = 1:

    β_i = 1 − ᾱ_i / ᾱ_{i−1}          β̃_i = β_i (1 − ᾱ_{i−1}) / (1 − ᾱ_i)
    Σ_θ = exp(f log β_i + (1 − f) log β̃_i),  f = (o + 1)/2                      (eq. 15)
    L_i = KL(q(z_{i−1} | z_i, x) ‖ N(μ_θ, Σ_θ))   for i > 0                      (eqs. 10–14)
    L_0 = −log N(x; μ_θ, Σ_θ)
    L_hybrid = L_simple + λ L_vlb,  L_vlb = Σ_i L_i, estimated as T · mean L_i   (eq. 16)

o is the network's raw second output. μ_θ takes no gradient: the bound trains the variance alone.
log β̃_0 = −∞ is replaced by log β̃_1. Each L_i is a mean over the numbers of a latent, in bits, as
in the authors' code, so that λ = 0.001 means the same.

Unlike there, L_0 is a *density*: latents are real numbers, not the 256 levels of a pixel.
"""

import math

import torch
from torch import Tensor

from latentsmith.diffusion.paths import precise, weight
from latentsmith.diffusion.vp import VPPath


def log_variance(raw: Tensor, t: Tensor, path: VPPath) -> Tensor:
    """log Σ_θ [B, …] of the step down from each t, float32 or wider.

    Args:
        raw: the network's second output [B, …].
        t: [B], on the path's steps.
    """
    beta, tilde, _, _ = _steps(t, path)
    raw = raw if raw.dtype.itemsize >= 4 else raw.float()
    share = (raw + 1) / 2
    return share * weight(beta.log(), raw) + (1 - share) * weight(tilde.log(), raw)


def bound(
    data_hat: Tensor, raw: Tensor, data: Tensor, z: Tensor, t: Tensor, path: VPPath
) -> Tensor:
    """T · L_i in bits per number, for each sample [B]: an estimate of L_vlb when t is uniform over
    the steps.

    Args:
        data_hat: predicted data [B, …]; no gradient is taken to it.
        raw: the network's second output [B, …].
        data, z, t: the truth and what the network saw, t on the path's steps [B].
    """
    _, tilde, of_data, of_z = _steps(t, path)
    of_data, of_z = weight(of_data, z), weight(of_z, z)
    learned = log_variance(raw, t, path)
    mean = of_data * data_hat.detach() + of_z * z
    true_mean, true_log = of_data * data + of_z * z, weight(tilde.log(), z)
    gap = (true_mean - mean).square()
    kl = 0.5 * (learned - true_log - 1 + (true_log - learned).exp() + gap * (-learned).exp())
    density = 0.5 * (math.log(2 * math.pi) + learned + (data - mean).square() * (-learned).exp())
    first = (path.index(t) == 0).view(-1, *[1] * (z.ndim - 1))
    nats = torch.where(first, density, kl).flatten(1).mean(1)
    return nats * (path.timesteps / math.log(2))


def _steps(t: Tensor, path: VPPath) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(β, β̃, and the factors of data and z in the posterior's mean), each [B]."""
    bar = path.alphas_cumprod
    before = torch.cat([bar.new_ones(1), bar[:-1]])
    beta = 1 - bar / before
    tilde = beta * (1 - before) / (1 - bar)
    tilde[0] = tilde[1]
    of_data = before.sqrt() * beta / (1 - bar)
    of_z = (1 - beta).sqrt() * (1 - before) / (1 - bar)
    table = torch.stack([beta, tilde, of_data, of_z]).to(t.device, precise(t).dtype)
    return tuple(table[:, path.index(t)])  # type: ignore[return-value]
