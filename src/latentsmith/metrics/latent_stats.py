"""What latents look like to a generator: scale, shape of the marginals, used directions."""

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.registry import metric


def _maps(maps: Tensor, what: str, least: int = 2) -> Tensor:
    """Latents [N, C, H, W] (or [N, C]) as float64 [N, C, H W]."""
    if maps.ndim < 2:
        raise UserError(f"{what} needs latents [N, C, ...], got {list(maps.shape)}.")
    check_finite(maps, "latents")
    check_count(len(maps), least, what)
    return maps.detach().double().reshape(len(maps), maps.shape[1], -1)


def channel_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Per-channel mean and standard deviation [C] over samples and positions."""
    x = _maps(maps, "channel moments").transpose(0, 1).flatten(1)
    return x.mean(1), x.std(1)


def channel_kurtosis(maps: Tensor) -> Tensor:
    """Excess kurtosis [C] over samples and positions (0 for a Gaussian)."""
    x = _maps(maps, "kurtosis", 4).transpose(0, 1).flatten(1)
    x = x - x.mean(1, keepdim=True)
    variance = x.square().mean(1)
    if float(variance.min()) <= 0:
        raise UserError("kurtosis is undefined: a latent channel is constant (collapsed).")
    return x.pow(4).mean(1) / variance**2 - 3


@metric(
    "latent_std",
    help="root mean square over channels of the latents' standard deviation (raw scale)",
    inputs=("maps",),
    higher_is_better=None,
)
def latent_std(maps: Tensor) -> float:
    """1 / this is the single scaling factor the raw latents would need (0.18215 for SD's VAE).

    Args:
        maps: latents [N, C, ...].
    """
    return float(channel_moments(maps)[1].square().mean().sqrt())


@metric(
    "latent_kurtosis",
    help="excess kurtosis of latent values, mean over channels (0 = Gaussian)",
    inputs=("maps",),
    higher_is_better=None,
)
def latent_kurtosis(maps: Tensor) -> float:
    """Mean over channels of the excess kurtosis. Raises UserError for a constant channel."""
    return float(channel_kurtosis(maps).mean())


@metric(
    "active_dims",
    help="share of latent dimensions whose variance over images exceeds a threshold",
    inputs=("maps",),
    higher_is_better=None,
)
def active_dims(maps: Tensor, *, threshold: float = 1e-2) -> float:
    """Share of the C h w dimensions with Var_x(E[z|x]) > threshold (Burda et al. 2016).

    Args:
        maps: posterior *means* [N, C, ...], in the model's own scale.
    """
    return float((_maps(maps, "active_dims").flatten(1).var(0) > threshold).double().mean())


@metric(
    "participation_ratio",
    help="effective number of linear directions: (sum of eigenvalues)^2 / sum of squares",
    inputs=("maps",),
    higher_is_better=None,
)
def participation_ratio(maps: Tensor) -> float:
    """(tr S)^2 / tr S^2 of the covariance S of the flattened latents; 1 … min(D, N - 1).

    Needs no eigenproblem: tr S^2 is the squared norm of S (or of the Gram matrix when N < D).
    """
    x = _maps(maps, "participation_ratio", 3).flatten(1)
    x = x - x.mean(0)
    product = x @ x.T if len(x) < x.shape[1] else x.T @ x
    trace = float(product.trace())
    if trace <= 0:
        raise UserError("participation_ratio is undefined: all latents are the same (collapsed).")
    return trace**2 / float(product.square().sum())


@metric(
    "spectral_slope",
    help="slope of log power against log spatial frequency of the latent maps (0 = white)",
    inputs=("maps",),
    higher_is_better=None,
)
def spectral_slope(maps: Tensor) -> float:
    """Least-squares slope over rings of equal frequency, 1 … min(h, w)/2 cycles per picture.

    Power is averaged over samples and channels, its logarithm (and the frequency's) over each
    ring, so that a pure power law gives its exponent exactly.

    Natural images have about -2 in power. Strongly white latents (near 0) are hard to denoise.

    Raises:
        UserError: maps smaller than 8 x 8, or constant.
    """
    if maps.ndim != 4 or min(maps.shape[-2:]) < 8:
        raise UserError(
            f"spectral_slope needs latents [N, C, h, w] with h, w >= 8, got {list(maps.shape)}."
        )
    check_finite(maps, "latents")
    x = maps.detach().double()
    h, w = x.shape[-2:]
    power = torch.fft.fft2(x).abs().square().mean((0, 1))
    # Frequencies in cycles per picture along the shorter side, so that rectangles average right.
    fy = torch.fft.fftfreq(h, dtype=torch.float64, device=x.device)[:, None]
    fx = torch.fft.fftfreq(w, dtype=torch.float64, device=x.device)[None]
    radius = (fy**2 + fx**2).sqrt() * min(h, w)
    ring = radius.round().long()
    rings = torch.arange(1, min(h, w) // 2 + 1, device=x.device)
    inside = (ring >= 1) & (ring <= len(rings))
    if float(power[inside].min()) <= 0:
        raise UserError("spectral_slope is undefined: the latent maps are constant.")
    u = torch.stack([radius[ring == r].log().mean() for r in rings])
    v = torch.stack([power[ring == r].log().mean() for r in rings])
    u = u - u.mean()
    return float((u * v).sum() / (u * u).sum())
