"""Pixel losses between a reconstruction and its image."""

import torch.nn.functional as F
from torch import Tensor


def reconstruction_parts(recon: Tensor, images: Tensor, *, delta: float = 0.1) -> dict[str, Tensor]:
    """The unweighted terms: scalars, float32 (or wider) whatever autocast left.

    Args:
        recon: [B, C, H, W], about [0, 1].
        images: [B, C, H, W] in [0, 1].
        delta: error at which Huber's loss turns from quadratic to linear, in units of [0, 1].

    Returns:
        ``l1`` mean absolute error, ``mse`` mean squared error, ``huber`` Huber's loss divided by
        delta, so that it behaves as ``l1`` for large errors whatever delta (PyTorch's
        ``smooth_l1_loss`` with beta = delta).
    """
    if recon.dtype.itemsize < 4:
        recon = recon.float()
    images = images.to(recon.dtype)
    return {
        "l1": F.l1_loss(recon, images),
        "mse": F.mse_loss(recon, images),
        "huber": F.smooth_l1_loss(recon, images, beta=delta),
    }


def reconstruction_loss(
    recon: Tensor,
    images: Tensor,
    *,
    l1: float = 1.0,
    mse: float = 0.0,
    huber: float = 0.0,
    delta: float = 0.1,
) -> Tensor:
    """Weighted sum of `reconstruction_parts`, a scalar."""
    parts = reconstruction_parts(recon, images, delta=delta)
    return l1 * parts["l1"] + mse * parts["mse"] + huber * parts["huber"]
