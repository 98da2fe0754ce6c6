"""Measure what an encoder's tokens tell of single pixels."""

from latentsmith.recipes.segmentation.config import SegmentationRecipeConfig

__all__ = ["SegmentationRecipeConfig"]
