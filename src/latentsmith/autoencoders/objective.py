"""What an autoencoder is trained on, apart from data, network and optimizer.

loss = l1*L1 + mse*MSE + kl*KL + perceptual*LPIPS + adversarial*GAN
"""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.autoencoders.base import Part
from latentsmith.config.schema import schema
from latentsmith.losses.kl import KLReduction
from latentsmith.losses.perceptual import lpips_needs
from latentsmith.utils.needs import Need


@schema
class PerceptualConfig:
    """LPIPS between image and reconstruction."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the loss. 0 (no LPIPS) where the trunk's weights cannot be had."""
    net: Literal["vgg", "alex"] = "vgg"
    """Trunk network."""
    trunk: str | None = None
    """File with the trunk's ImageNet weights (torchvision's state dict)."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        return lpips_needs(self.net, self.trunk) if self.weight > 0 else []


@schema
class AdversarialConfig:
    """PatchGAN discriminator with its own optimiser."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the autoencoder's loss; 0 leaves the discriminator out."""
    starts_at: Annotated[int, Field(ge=0)] = 0
    """Samples seen before the autoencoder meets the discriminator's judgement."""
    adaptive: bool = True
    """Scale the weight by the ratio of gradients at the decoder's last layer."""
    loss: Literal["hinge", "vanilla"] = "hinge"
    """GAN loss."""
    channels: Annotated[int, Field(gt=0)] = 64
    """Width of the discriminator's first layer."""
    layers: Annotated[int, Field(gt=0)] = 3
    """Strided layers: each doubles the patch a score sees."""
    lr_scale: Annotated[float, Field(gt=0)] = 1.0
    """Discriminator's learning rate over the autoencoder's."""


@schema
class ObjectiveConfig:
    """The autoencoder's own objective, apart from regularizers of its latents."""

    l1: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the mean absolute error, images in [0, 1]."""
    mse: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean squared error, images in [0, 1]."""
    kl: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the KL divergence from the standard normal."""
    kl_reduction: KLReduction = "sum"
    """``sum`` over a latent's elements (Stable Diffusion's) or ``mean``."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """LPIPS."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """PatchGAN."""
    train: Part = "both"
    """Which half is trained."""
    latent: Literal["mode", "sample"] = "mode"
    """Which latent a regularizer sees: the posterior's mean, or a draw."""
