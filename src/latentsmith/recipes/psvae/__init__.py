"""A representation encoder becomes a latent space to generate and edit images in (PS-VAE)."""

from latentsmith.recipes.psvae.config import PSVAEConfig

__all__ = ["PSVAEConfig"]
