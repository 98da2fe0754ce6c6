"""U-REPA: align a latent-diffusion U-Net's features with a vision encoder's."""

from latentsmith.recipes.urepa.config import UREPAConfig

__all__ = ["UREPAConfig"]
