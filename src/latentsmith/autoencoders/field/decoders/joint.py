"""``joint``: tokens and queries in one scan that all of them change. The source's; a baseline.

A value depends on which other queries are asked, so it is no function of its coordinate: trained
at one density it breaks at another, which is the "wiggliness" that the source sets out from.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.field.decoders.base import (
    DECODERS,
    DecoderConfig,
    DecoderShape,
    Scene,
)
from latentsmith.backbones.blocks.mlp import mlp
from latentsmith.backbones.blocks.modulation import Modulation, gated, modulate
from latentsmith.backbones.blocks.norms import normalize
from latentsmith.backbones.mixers import Mixer
from latentsmith.config.schema import schema


@DECODERS.register("joint", help="one scan over tokens and queries, the source's; no function")
@schema
class JointConfig(DecoderConfig):
    """Queries change each other: the baseline."""

    kind: Literal["joint"] = "joint"
    exact: ClassVar[bool] = False

    def block(self, shape: DecoderShape, layer: int) -> nn.Module:
        """See `DecoderConfig.block`."""
        return JointBlock(shape.width, self.mlp_ratio, shape.mixer.build(shape.width, layer))


class JointBlock(nn.Module):
    """A mixer over tokens and queries, and an MLP: normalized, modulated, gated and added."""

    def __init__(self, width: int, mlp_ratio: float, mixer: Mixer):
        super().__init__()
        self.mixer = mixer
        self.mlp = mlp("gelu", width, mlp_ratio)
        self.modulation = Modulation(width, 6)

    def forward(self, q: Tensor, tokens: Tensor, scene: Scene, c: Tensor) -> tuple[Tensor, Tensor]:
        """See `DecoderBlock.forward`."""
        shift, scale, gate, shift_m, scale_m, gate_m = self.modulation.vectors(c)
        x = torch.cat([tokens, q], dim=1)
        h = modulate(normalize(x, "layer"), shift, scale)
        x = gated(x, 1 + gate, self.mixer(h, scene.joined))
        x = gated(x, 1 + gate_m, self.mlp(modulate(normalize(x, "layer"), shift_m, scale_m)))
        tokens, q = x.split([tokens.shape[1], q.shape[1]], dim=1)
        return q, tokens
