"""Paths between latents, decoded."""

from latentsmith.recipes.interpolate.config import InterpolateConfig

__all__ = ["InterpolateConfig"]
