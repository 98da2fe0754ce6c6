"""``local``: every query hears from the tokens nearest to it, with the offset to each (LIIF)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from latentsmith.autoencoders.field.decoders.base import (
    DECODERS,
    DecoderBlock,
    DecoderConfig,
    DecoderShape,
    Reader,
    Scene,
)
from latentsmith.autoencoders.field.neighbours import Gather
from latentsmith.config.schema import schema


@DECODERS.register(
    "local", help="each query hears from its nearest tokens, by offset: fast to learn"
)
@schema
class LocalConfig(DecoderConfig):
    """Exactly a function of the coordinate, and continuous; linear in the number of queries."""

    kind: Literal["local"] = "local"
    nearest: Annotated[int, Field(gt=0)] = 4
    """Tokens a query hears from."""

    def block(self, shape: DecoderShape, layer: int) -> nn.Module:
        """See `DecoderConfig.block`."""
        return DecoderBlock(
            shape.width, self.mlp_ratio, LocalReader(shape.width, self.nearest, shape.features.dims)
        )


class LocalReader(Reader):
    """What the nearest tokens say, weighted by nearness."""

    def __init__(self, width: int, nearest: int, dims: int):
        super().__init__()
        self.nearest = nearest
        self.gather = Gather(width, width, dims)

    def forward(self, q: Tensor, tokens: Tensor, scene: Scene) -> Tensor:
        """See `Reader.forward`."""
        return self.gather(q, tokens, scene.near(self.nearest))
