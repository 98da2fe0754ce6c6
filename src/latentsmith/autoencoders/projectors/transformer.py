"""``transformer``: the paper's projector, where tokens see each other."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from latentsmith.autoencoders.projectors.base import PROJECTORS, Grid, ProjectorConfig
from latentsmith.backbones.blocks.positions import sincos_2d
from latentsmith.backbones.blocks.weights import Constant
from latentsmith.config.schema import schema


class Blocks(nn.Module):
    """Linear, positions, transformer blocks, norm, linear: tokens [B, N, a] → [B, N, b]."""

    def __init__(self, a: int, b: int, grid: Grid, *, width: int, depth: int, heads: int):
        super().__init__()
        self.into = nn.Linear(a, width)
        self.positions = Constant(lambda: sincos_2d(width, grid))
        layers = [
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        ]  # fmt: skip
        self.blocks = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, b))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, a] → [B, N, b]."""
        return self.out(self.blocks(self.into(tokens) + self.positions().to(tokens.dtype)))


@PROJECTORS.register("transformer", help="transformer blocks over all tokens, as in the paper")
@schema
class TransformerProjectorConfig(ProjectorConfig):
    """Blocks of self-attention and a linear layer, in both directions."""

    kind: Literal["transformer"] = "transformer"
    depth: Annotated[int, Field(gt=0)] = 3
    """Blocks in each direction."""
    width: Annotated[int, Field(gt=0)] | None = None
    """Width of the blocks, a multiple of heads and of 4. Left out: the features'."""
    heads: Annotated[int, Field(gt=0)] = 16
    """Attention heads."""

    def __post_init__(self) -> None:
        if self.width is not None and (self.width % self.heads or self.width % 4):
            raise ValueError(
                f"width {self.width} must be a multiple of heads {self.heads} and of 4"
            )

    def build(self, dim: int, latent: int, grid: Grid) -> tuple[nn.Module, nn.Module]:
        """See `ProjectorConfig.build`."""
        shape = {"width": self.width or dim, "depth": self.depth, "heads": self.heads}
        return Blocks(dim, 2 * latent, grid, **shape), Blocks(latent, dim, grid, **shape)
