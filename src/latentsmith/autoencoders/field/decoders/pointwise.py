"""``pointwise``: an MLP of the coordinate, modulated by the pooled code (functa, DiffAE)."""

from typing import Literal

from torch import nn

from latentsmith.autoencoders.field.decoders.base import (
    DECODERS,
    DecoderBlock,
    DecoderConfig,
    DecoderShape,
)
from latentsmith.config.schema import schema


@DECODERS.register("pointwise", help="an MLP of each coordinate, modulated by the pooled code")
@schema
class PointwiseConfig(DecoderConfig):
    """Exactly a function of the coordinate; sees no more of the tokens than their mean."""

    kind: Literal["pointwise"] = "pointwise"

    def block(self, shape: DecoderShape, layer: int) -> nn.Module:
        """See `DecoderConfig.block`."""
        return DecoderBlock(shape.width, self.mlp_ratio, None)
