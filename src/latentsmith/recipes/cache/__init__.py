"""Compute what a model makes of a dataset once, and keep it in a store."""

from latentsmith.recipes.cache.config import CacheConfig

__all__ = ["CacheConfig"]
