"""Structural similarity (Wang et al. 2004) and its multi-scale form (Wang et al. 2003).

Averaged over the positions where the whole window lies inside the image, as in the published
code. torchmetrics 1.9 averages over reflected borders as well, which moves the value by 0.01 on
small images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.reconstruction import check_images, to_8bit
from latentsmith.metrics.registry import metric

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _blur(x: Tensor) -> Tensor:
    """11 x 11 Gaussian (sigma 1.5), valid positions only: [B, C, H, W] → [B, C, H-10, W-10]."""
    at = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    kernel = torch.exp(-(at**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return flat.reshape(*x.shape[:2], *flat.shape[-2:])


def _ssim_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(luminance * contrast-structure, contrast-structure), each averaged to [B, C]."""
    mu_x, mu_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mu_x**2
    var_y = _blur(y * y) - mu_y**2
    cov = _blur(x * y) - mu_x * mu_y
    c1, c2 = K1**2, K2**2
    contrast = (2 * cov + c2) / (var_x + var_y + c2)
    luminance = (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def _batches(images: Tensor, recon: Tensor, least: int, what: str):
    """8-bit rounded pairs of batches, float32, or UserError when the images are too small."""
    check_images(images, recon)
    if min(images.shape[-2:]) < least:
        raise UserError(
            f"{what} needs images of at least {least} x {least}, "
            f"got {images.shape[-2]} x {images.shape[-1]}."
        )
    for a, b in zip(images.split(128), recon.split(128), strict=True):
        yield to_8bit(a.float()), to_8bit(b.float())


def ssim_per_image(images: Tensor, recon: Tensor) -> Tensor:
    """SSIM [N] of each image, mean over channels, float64."""
    parts = _batches(images, recon, WINDOW, "ssim")
    return torch.cat([_ssim_maps(a, b)[0].mean(1).double() for a, b in parts])


@metric(
    "ssim",
    help="structural similarity: 11 x 11 Gaussian window, on 8-bit rounded images",
    inputs=("images", "recon"),
    higher_is_better=True,
    best=1.0,
    per_sample=ssim_per_image,
)
def ssim(images: Tensor, recon: Tensor) -> float:
    """Mean SSIM over images, channels and valid positions; in [-1, 1].

    Args:
        images: [N, C, H, W] in [0, 1], sides at least 11. recon: same shape; clamped.

    Raises:
        UserError: shapes differ, too small, NaN, images outside [0, 1].
    """
    return float(ssim_per_image(images, recon).mean())


def ms_ssim_per_image(images: Tensor, recon: Tensor) -> Tensor:
    """MS-SSIM [N] of each image, mean over channels, float64."""
    least = (WINDOW - 1) * 2 ** (len(MS_WEIGHTS) - 1) + 1
    out = []
    for x, y in _batches(images, recon, least, "ms_ssim"):
        value = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
        for scale, weight in enumerate(MS_WEIGHTS):
            full, contrast = _ssim_maps(x, y)
            last = scale == len(MS_WEIGHTS) - 1
            # Negative structure has no real power; cut at 0 as the published code does.
            value = value * (full if last else contrast).clamp_min(0) ** weight
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        out.append(value.mean(1).double())
    return torch.cat(out)


@metric(
    "ms_ssim",
    help="multi-scale structural similarity, five scales (images of 161 pixels or more)",
    inputs=("images", "recon"),
    higher_is_better=True,
    best=1.0,
    per_sample=ms_ssim_per_image,
)
def ms_ssim(images: Tensor, recon: Tensor) -> float:
    """Mean MS-SSIM over images and channels; in [0, 1].

    Args and errors: as `ssim`, but with sides of at least 161.
    """
    return float(ms_ssim_per_image(images, recon).mean())
