"""The run's networks without memory, for dry runs and plans."""

from dataclasses import replace

import torch

from latentsmith.autoencoders.projectors.identity import IdentityConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.backbones.text_dit import TextDiT
from latentsmith.planning.published import image_encoder, text_shape
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig


def semantic_on_meta(cfg: PSVAEConfig, arm: Arm = "psvae") -> SemanticAutoencoder:
    """The autoencoder around the vision encoder; ``rae``: without a projector. Raises UserError
    when the encoder is neither published nor at hand."""
    config = cfg.autoencoder
    if arm == "rae":
        config = replace(config, projector=IdentityConfig(), latent_channels=None)
    encoder = image_encoder(config.encoder)
    with torch.device("meta"):
        return SemanticAutoencoder(config, encoder)


def transformer_on_meta(
    cfg: PSVAEConfig, shape: tuple[int, int, int], arm: Arm = "psvae"
) -> TextDiT:
    """The transformer for an arm's latents (C, h, w), told texts of the encoder's width. Raises
    UserError when the text encoder is neither published nor at hand."""
    text = text_shape(cfg.text_encoder)
    patch = cfg.vae.patch if arm == "vae" else cfg.backbone.patch
    config = replace(cfg.backbone, text_width=text.width, text_length=text.length, patch=patch)
    with torch.device("meta"):
        return config.build(shape)
