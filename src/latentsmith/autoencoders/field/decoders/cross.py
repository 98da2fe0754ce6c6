"""``cross``: every query attends to the tokens (Perceiver IO; locality-aware INRs)."""

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
from latentsmith.autoencoders.field.features import Nearness
from latentsmith.backbones.blocks.attention import CrossAttention
from latentsmith.config.schema import schema


@DECODERS.register("cross", help="cross-attention of each query to the tokens, near ones more")
@schema
class CrossConfig(DecoderConfig):
    """Exactly a function of the coordinate; the default."""

    kind: Literal["cross"] = "cross"
    heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads: divides the width."""
    local: bool = True
    """Attend less to tokens far away, by a radius that each head learns."""

    def block(self, shape: DecoderShape, layer: int) -> nn.Module:
        """See `DecoderConfig.block`."""
        reader = CrossReader(shape.width, self.heads, shape.spacing if self.local else None)
        return DecoderBlock(shape.width, self.mlp_ratio, reader)


class CrossReader(Reader):
    """Attention from queries to tokens."""

    def __init__(self, width: int, heads: int, spacing: float | None):
        super().__init__()
        self.attn = CrossAttention(width, heads, qk_norm=True, norm="rms")
        self.near = None if spacing is None else Nearness(heads, spacing)

    def forward(self, q: Tensor, tokens: Tensor, scene: Scene) -> Tensor:
        """See `Reader.forward`."""
        bias = None if self.near is None else self.near(scene.queries, scene.tokens)
        return self.attn(q, tokens, bias=bias)
