"""The denoising loss of each sample: prediction converted to what is compared, then weighted.

    loss_b = w(t) mean((said_as_objective(output) − target)²)

min_snr (Hang et al. 2023, arXiv 2303.09556): min(SNR, γ) |x̂ − x|², SNR = α²/σ². For known z an
error δ of the data is, in the compared space, an error κ δ, so that w = min(SNR, γ) / κ²:

objective   κ                     w
data        1                     min(SNR, γ)
noise       −α/σ                  min(1, γ/SNR)
v           −(α² + σ²)/σ          min(α², γ σ²) / (α² + σ²)²     (vp: min(SNR, γ)/(SNR + 1))
velocity    −(α σ' − σ α')/σ      min(α², γ σ²) / (α σ' − σ α')²
score       α/σ²                  min(1, γ/SNR) σ²
"""

import torch
from torch import Tensor

from latentsmith.diffusion.config import Weighting
from latentsmith.diffusion.parametrization import (
    Parametrization,
    coefficients,
    convert,
    of_pair,
    parts,
)
from latentsmith.diffusion.paths import Path, precise
from latentsmith.errors import UserError


def denoising_losses(
    output: Tensor,
    target: Tensor,
    z: Tensor,
    t: Tensor,
    path: Path,
    predicts: Parametrization,
    objective: Parametrization,
) -> Tensor:
    """Unweighted loss of each sample [B], float32 or wider.

    Args:
        output: the network's [B, …], in its parametrization ``predicts``.
        target: the truth [B, …], in the parametrization ``objective``; see `target_of`.
        z, t: what the network saw [B, …], [B]; no ``t`` without an answer (`check_ends`).
    """
    said = convert(output, z, t, path, predicts, objective, check=False)
    return (said - target).square().flatten(1).mean(1)


def target_of(
    data: Tensor, noise: Tensor, t: Tensor, path: Path, objective: Parametrization
) -> Tensor:
    """What the loss compares with [B, …]."""
    return of_pair(data, noise, t, path, objective, check=False)


def weights(
    t: Tensor, path: Path, objective: Parametrization, weighting: Weighting, gamma: float
) -> Tensor:
    """w(t), like ``t`` in float64; finite at every time with a finite target."""
    t = precise(t)
    if weighting == "none":
        return torch.ones_like(t)
    signal, power = path.alpha(t).square(), path.sigma(t).square()
    if objective == "data":
        return (signal / power).clamp(max=gamma)
    if objective in ("noise", "score"):
        bounded = (gamma * power / signal).clamp(max=1)
        return bounded if objective == "noise" else bounded * power
    a, b = parts(t, path, objective)
    determinant = path.alpha(t) * b - path.sigma(t) * a
    return torch.minimum(signal, gamma * power) / determinant.square()


def check_ends(
    path: Path,
    predicts: Parametrization,
    objective: Parametrization,
    low: float,
    high: float,
) -> None:
    """Refuse a training whose loss grows beyond all bounds at an end of its times.

    Args:
        low, high: times are drawn from [low, high].

    Raises:
        UserError: the target or the conversion is infinite there; says what would be right.
    """
    ends = path.on_grid(torch.tensor([low, high], dtype=torch.float64))
    for t, limit in zip(ends, ("times.low=1e-3", "times.high=0.999"), strict=True):
        where = f"is infinite at t = {float(t):g}, a time the training would draw: set {limit}"
        # velocity is defined everywhere: it stands for the truth
        if not _finite(t, path, "velocity", objective):
            raise UserError(f"the target of objective={objective} {where}, or compare velocity")
        if not _finite(t, path, predicts, objective):
            raise UserError(
                f"objective={objective} from a network that predicts {predicts} {where}, compare "
                f"what it predicts (objective={predicts}), or let it predict velocity"
            )


def _finite(t: Tensor, path: Path, source: Parametrization, target: Parametrization) -> bool:
    return bool(torch.stack(coefficients(t, path, source, target)).isfinite().all())
