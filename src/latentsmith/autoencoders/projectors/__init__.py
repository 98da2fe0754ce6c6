"""Projectors: an encoder's features become a latent, and features again."""

from latentsmith.autoencoders.projectors.base import PROJECTORS, ProjectorConfig

__all__ = ["PROJECTORS", "ProjectorConfig"]
