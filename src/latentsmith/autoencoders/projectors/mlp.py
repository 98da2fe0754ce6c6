"""``mlp``: the source's projector, two layers for each token alone."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from latentsmith.autoencoders.projectors.base import PROJECTORS, Grid, ProjectorConfig
from latentsmith.config.schema import schema


class ResidualBlock(nn.Module):
    """x + MLP(LayerNorm(x)), both layers of width d: [..., d] → [..., d]."""

    def __init__(self, dim: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.block(x)


def _layer(wide: int, narrow: int) -> list[nn.Module]:
    return [nn.Linear(wide, narrow), nn.LayerNorm(narrow), nn.GELU()]


@PROJECTORS.register("mlp", help="two layers for each token alone, as in the source")
@schema
class MLPConfig(ProjectorConfig):
    """d → 512 → 256 → mean and log-variance; back 256 → 512 → d and residual blocks of width d.

    Each token for itself: the PS-VAE paper's own ablation has it losing to blocks that let tokens
    talk (linear probe 44.5 against 79.5)."""

    kind: Literal["mlp"] = "mlp"
    widths: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (512, 256)
    """Widths of the two hidden layers, from the features' side."""
    blocks: Annotated[int, Field(ge=0)] = 2
    """Residual blocks of width d after reading back."""

    def build(self, dim: int, latent: int, grid: Grid) -> tuple[nn.Module, nn.Module]:
        """See `ProjectorConfig.build`. Mean and log-variance are one layer of 2 z outputs, which
        is the source's two layers side by side."""
        wide, narrow = self.widths
        projector = nn.Sequential(
            *_layer(dim, wide), *_layer(wide, narrow), nn.Linear(narrow, 2 * latent)
        )
        reader = nn.Sequential(
            *_layer(latent, narrow),
            *_layer(narrow, wide),
            nn.Linear(wide, dim),
            *(ResidualBlock(dim) for _ in range(self.blocks)),
        )
        return projector, reader
