"""Signals at scattered points as latents: a diffusion autoencoder of sparse fields."""

from latentsmith.recipes.field.config import FieldConfig

__all__ = ["FieldConfig"]
