"""Reconstruction error of images in [0, 1].

``psnr`` is the mean over images of each image's PSNR, on images clamped and rounded to 8 bits: what
a saved picture shows. ``psnr_pooled`` is the PSNR of the error pooled over all images (the default
of torchmetrics); on mixed data the two differ by up to 13 dB, so they have two names.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.registry import metric


def to_8bit(images: Tensor) -> Tensor:
    """Clamped to [0, 1] and rounded to multiples of 1/255 (still floating point)."""
    return (images.clamp(0, 1) * 255).round() / 255


def check_images(images: Tensor, recon: Tensor) -> None:
    """Raises UserError unless both are finite [N, C, H, W] of one shape, ``images`` in [0, 1]."""
    if images.shape != recon.shape or images.ndim != 4:
        raise UserError(
            f"images and recon must have one shape [N, C, H, W], "
            f"got {list(images.shape)} and {list(recon.shape)}."
        )
    check_count(len(images), 1, "reconstruction error", "image")
    check_finite(images, "images")
    check_finite(recon, "recon")
    low, high = float(images.min()), float(images.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise UserError(f"images must lie in [0, 1], found [{low:.3g}, {high:.3g}].")


def _mse_per_image(images: Tensor, recon: Tensor) -> Tensor:
    """Mean squared error [N], float64, after 8-bit rounding; one image batch at a time."""
    check_images(images, recon)
    return torch.cat(
        [
            (to_8bit(a.double()) - to_8bit(b.double())).square().flatten(1).mean(1)
            for a, b in zip(images.split(256), recon.split(256), strict=True)
        ]
    )


def _decibels(mse: Tensor, values: int) -> Tensor:
    # An error-free image has no finite PSNR. It gets that of the smallest error 8 bits can show,
    # one grey level in one of its values, so that means stay finite and order is kept.
    return -10 * mse.clamp_min((1 / 255) ** 2 / values).log10()


def psnr_per_image(images: Tensor, recon: Tensor) -> Tensor:
    """PSNR [N] in dB of each image."""
    return _decibels(_mse_per_image(images, recon), images[0].numel())


@metric(
    "psnr",
    help="peak signal-to-noise ratio: mean over images, on 8-bit rounded images",
    inputs=("images", "recon"),
    higher_is_better=True,
    unit="dB",
    per_sample=psnr_per_image,
)
def psnr(images: Tensor, recon: Tensor) -> float:
    """Mean of the images' PSNRs.

    Args:
        images: [N, C, H, W] in [0, 1]. recon: same shape; clamped to [0, 1].

    Raises:
        UserError: shapes differ, NaN, images outside [0, 1].
    """
    return float(psnr_per_image(images, recon).mean())


@metric(
    "psnr_pooled",
    help="PSNR of the squared error pooled over all images (torchmetrics' default)",
    inputs=("images", "recon"),
    higher_is_better=True,
    unit="dB",
)
def psnr_pooled(images: Tensor, recon: Tensor) -> float:
    """PSNR of the mean squared error over all images. Arguments and errors: as `psnr`."""
    return float(_decibels(_mse_per_image(images, recon).mean(), images.numel()))


def perceptual_per_image(
    images: Tensor, recon: Tensor, distance: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Distance [N], float64, of each reconstruction (clamped to [0, 1]) to its image."""
    check_images(images, recon)
    pairs = zip(images.split(64), recon.split(64), strict=True)
    with torch.no_grad():
        return torch.cat([distance(a, b.clamp(0, 1)).double().cpu() for a, b in pairs])


@metric(
    "perceptual_distance",
    help="mean perceptual distance of reconstructions to images (printed as lpips for LPIPS)",
    inputs=("images", "recon", "distance"),
    higher_is_better=False,
    best=0.0,
    per_sample=perceptual_per_image,
)
def perceptual_distance(
    images: Tensor, recon: Tensor, distance: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """Mean of ``distance(images, recon)``, a callable (images, images) [B, C, H, W] → [B].

    Raises: as `psnr`.
    """
    return float(perceptual_per_image(images, recon, distance).mean())
