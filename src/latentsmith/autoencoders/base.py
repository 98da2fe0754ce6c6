"""What every autoencoder promises: images in [0, 1] to a Gaussian over *raw* latents, and back.

Raw latents become what a generator sees by one measured normalizer, which belongs to the encoder
it was measured on and is refused with any other (`latentsmith.autoencoders.normalizer`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.normalizer import Latent, LatentMoments, LatentNormalizer
from latentsmith.errors import UserError
from latentsmith.losses.kl import KLReduction, gaussian_kl

Part = Literal["both", "encoder", "decoder"]


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over raw latents; both tensors float32 [B, C, h, w]."""

    mean: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        """The most likely latent, which is the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparametrised draw, differentiable in mean and log-variance."""
        # By shape, not randn_like: with the strides of `mean` the numbers would depend on layout.
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self, reduction: KLReduction) -> Tensor:
        """Scalar KL from the standard normal, see `latentsmith.losses.kl.gaussian_kl`."""
        return gaussian_kl(self.mean, self.logvar, reduction)


class Autoencoder(nn.Module):
    """Encoder and decoder with what makes their latents usable.

    Args:
        source: where it comes from, for messages.

    Attributes:
        kind: name of the family, in the manifests of latents' stores.
        normalizer: statistics of the latents, None until measured; see `measure_normalizer`.
    """

    kind: str
    quietest: float = 0.0
    """Smallest deviation of a latent channel over the mean, `LatentNormalizer.from_moments`."""

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.normalizer: LatentNormalizer | None = None

    # What a family says ---------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Image channels."""
        raise TypeError(f"{type(self).__name__} has no channels")

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        raise TypeError(f"{type(self).__name__} has no latent_channels")

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        raise TypeError(f"{type(self).__name__} has no factor")

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of square images. Raises UserError for sides it does not take."""
        raise TypeError(f"{type(self).__name__} has no latent_shape()")

    def encode(self, images: Tensor) -> Posterior:
        """[B, channels, H, W] in [0, 1] → posterior over raw latents [B, C, h, w].

        Raises:
            UserError: other channels than `channels`, or a side it does not take.
        """
        raise TypeError(f"{type(self).__name__} has no encode()")

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, h, w] → images float32 [B, channels, H, W], about [0, 1], unclamped
        so that a loss keeps its gradient outside."""
        raise TypeError(f"{type(self).__name__} has no decode()")

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that decide the latents."""
        raise TypeError(f"{type(self).__name__} has no encoder_parameters()")

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Parameters that decide the image of a given latent."""
        raise TypeError(f"{type(self).__name__} has no decoder_parameters()")

    def last_decoder_weight(self) -> nn.Parameter:
        """Weight of the layer that makes the pixels, where the adversarial weight is balanced."""
        raise TypeError(f"{type(self).__name__} has no last_decoder_weight()")

    def last_encoder_weight(self) -> nn.Parameter:
        """Weight of the encoder's last layer, where an alignment loss is balanced."""
        raise TypeError(f"{type(self).__name__} has no last_encoder_weight()")

    def digest(self) -> str:
        """Hex digest of all weights."""
        raise TypeError(f"{type(self).__name__} has no digest()")

    def encoder_digest(self) -> str:
        """Hex digest of the weights that decide the latents."""
        raise TypeError(f"{type(self).__name__} has no encoder_digest()")

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write a folder that `latentsmith.autoencoders.load.load_autoencoder` reads.

        Raises:
            UserError: the normalizer is missing or stale (see `require_normalizer`).
        """
        raise TypeError(f"{type(self).__name__} has no save_pretrained()")

    # What all share -------------------------------------------------------------------------------

    def check_images(self, images: Tensor) -> None:
        """Raises UserError for images [B, C, H, W] that `encode` does not take."""
        if images.shape[1] != self.channels:
            raise UserError(
                f"images have {images.shape[1]} channel(s), the autoencoder takes {self.channels}:"
                f" set the data transform's channels to {self.channels}, or use an autoencoder "
                f"with in_channels={images.shape[1]}"
            )
        for side in images.shape[2:]:
            self.latent_shape(side)

    def trainable_parameters(self, part: Part = "both") -> list[nn.Parameter]:
        """Unfreeze ``part``, freeze the rest, and return what is left to train."""
        encoder, decoder = self.encoder_parameters(), self.decoder_parameters()
        chosen = {"both": encoder + decoder, "encoder": encoder, "decoder": decoder}[part]
        self.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    @torch.no_grad()
    def measure_normalizer(
        self, images: Iterable[Tensor], *, latent: Latent = "mode"
    ) -> LatentNormalizer:
        """Measure per-channel statistics over batches [B, C, H, W] in [0, 1] and keep them.

        ``latent`` says what the consumer will see; see `LatentMoments.update`. Under data
        parallelism measure on one rank, or merge `LatentMoments` yourself.
        """
        training, device = self.training, next(self.parameters()).device
        self.eval()
        moments = LatentMoments()
        for batch in images:
            posterior = self.encode(batch.to(device))
            moments.update(posterior.mean, posterior.logvar.exp() if latent == "sample" else None)
        self.train(training)
        self.normalizer = LatentNormalizer.from_moments(
            moments, encoder_digest=self.encoder_digest(), latent=latent, floor=self.quietest
        )
        return self.normalizer

    def require_normalizer(self) -> LatentNormalizer:
        """The normalizer, checked against the encoder as it is now.

        Raises:
            UserError: none was measured, or the encoder has changed since.
        """
        if self.normalizer is None:
            raise UserError(
                f"the latents of {self.source!r} have not been measured: run measure_normalizer() "
                "over training images first"
            )
        now = self.encoder_digest()
        if now != self.normalizer.encoder_digest:
            raise UserError(
                "the latent normalizer was measured on another encoder "
                f"({self.normalizer.encoder_digest[:12]}) than this one ({now[:12]}): it has been "
                "trained or replaced since. Run measure_normalizer() again"
            )
        return self.normalizer
