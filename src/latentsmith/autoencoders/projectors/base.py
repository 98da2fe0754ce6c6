"""Between an encoder's features and a compact latent: how S-VAE projects, and how it reads back.

A projector maps feature tokens [B, N, d] to moments [B, N, 2 z] (mean, log-variance); its reader
maps latent tokens [B, N, z] back to features [B, N, d]. Source: spec/3-ps-vae.md "Stage 1".
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.registry import Registry

PROJECTORS = Registry("projector", "latentsmith.autoencoders.projectors")

Grid = tuple[int, int]

LOGVAR = (-20.0, 10.0)
"""Log-variances are clamped to these: a variance of 2e-9 is none, one of 2e4 has no latent left."""


@schema
class ProjectorConfig:
    """Base of all projector configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str
    variational: ClassVar[bool] = True
    """Whether latents have a variance (False: the posterior is a point, and has no KL)."""

    def build(self, dim: int, latent: int, grid: Grid) -> tuple[nn.Module, nn.Module]:
        """(projector, reader) for features of width ``dim`` and ``latent`` channels."""
        raise TypeError(f"{type(self).__name__} has no build()")


def moments_of(config: ProjectorConfig, values: Tensor) -> tuple[Tensor, Tensor]:
    """A projector's output [B, N, …] → mean and log-variance [B, N, z], float32."""
    values = values.float()
    if not config.variational:
        return values, torch.full_like(values, LOGVAR[0])
    mean, logvar = values.chunk(2, dim=-1)
    return mean, logvar.clamp(*LOGVAR)
