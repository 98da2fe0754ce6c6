"""Images from a trained generator."""

from latentsmith.recipes.sample.config import SampleConfig

__all__ = ["SampleConfig"]
