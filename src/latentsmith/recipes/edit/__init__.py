"""Given images, changed by a trained generator."""

from latentsmith.recipes.edit.config import EditConfig

__all__ = ["EditConfig"]
