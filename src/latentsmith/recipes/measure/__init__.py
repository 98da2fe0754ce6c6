"""Measure the latent space of any autoencoder, without training."""

from latentsmith.recipes.measure.config import MeasureConfig

__all__ = ["MeasureConfig"]
