"""PatchGAN (Isola et al. 2017): a logit for every patch, real or reconstructed."""

import itertools
import math
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from latentsmith.errors import UserError


class PatchDiscriminator(nn.Module):
    """Strided convolutions from images in [0, 1] to a map of logits.

    Group norm, not batch norm: statistics over the batch would let the discriminator compare
    samples with each other, and would differ between ranks and micro-batches.

    Args:
        in_channels: image channels.
        channels: width of the first layer, doubled up to eightfold.
        layers: strided layers; a logit sees 16, 34, 70, 142 pixels for 1, 2, 3, 4.
        norm: ``group`` or ``none`` (with ``spectral``, usually none).
        spectral: spectral normalisation of every convolution (Miyato et al. 2018).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int = 64,
        layers: int = 3,
        norm: Literal["group", "none"] = "group",
        spectral: bool = False,
    ):
        super().__init__()
        self.layers = layers
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, (narrow, wide) in enumerate(itertools.pairwise(widths)):
            # The last of these keeps its resolution: it only widens what a logit sees.
            stride = 2 if i < layers - 1 else 1
            body.append(nn.Conv2d(narrow, wide, 4, stride, 1))
            if norm == "group":
                body.append(nn.GroupNorm(_groups(wide), wide))
            body.append(nn.LeakyReLU(0.2))
        body.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in body:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if spectral:
            body = [spectral_norm(m) if isinstance(m, nn.Conv2d) else m for m in body]
        self.body = nn.Sequential(*body)

    @property
    def smallest(self) -> int:
        """Smallest image side in pixels that gives a logit: each strided layer halves, the two
        last convolutions take one position each."""
        return 3 * 2**self.layers

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → logits [B, 1, h, w].

        Raises:
            UserError: images too small for this many layers.
        """
        if min(images.shape[-2:]) < self.smallest:
            raise UserError(
                f"a discriminator with {self.layers} strided layers needs images of "
                f"{self.smallest} x {self.smallest} pixels or more, these are {images.shape[-2]} "
                f"x {images.shape[-1]}: set its layers lower"
            )
        return self.body(images * 2 - 1)


def _groups(width: int) -> int:
    """At most 32 groups of at least 4 channels: with one channel a group, a map of one position
    would be normalised to zero."""
    return math.gcd(32, width, max(width // 4, 1))
