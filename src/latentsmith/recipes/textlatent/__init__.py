"""Text ↔ latent: one diffusion model of both, cycle losses, and whether they helped."""

from latentsmith.recipes.textlatent.config import TextLatentRecipe

__all__ = ["TextLatentRecipe"]
