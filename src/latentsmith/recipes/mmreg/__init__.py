"""MM-Reg: manifold-matching regularisation of an image autoencoder."""

from latentsmith.recipes.mmreg.config import MMRegConfig

__all__ = ["MMRegConfig"]
