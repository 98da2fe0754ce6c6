"""``attention``: every point sees every other; cost grows with the square of their number."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from latentsmith.backbones.blocks.attention import Attention
from latentsmith.backbones.mixers.base import MIXERS, Mixer, MixerConfig
from latentsmith.backbones.mixers.points import Points
from latentsmith.config.schema import schema


@MIXERS.register("attention", help="self-attention: exact in any order, quadratic in the points")
@schema
class AttentionMixerConfig(MixerConfig):
    """Multi-head self-attention. Cheaper than a scan below about a thousand points on a CPU."""

    kind: Literal["attention"] = "attention"
    heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads: divides the width."""
    qk_norm: bool = True
    """Normalize queries and keys, with a learned scale."""

    def build(self, width: int, layer: int = 0) -> "AttentionMixer":
        """See `MixerConfig.build`. Raises ValueError when heads do not divide the width."""
        if width % self.heads:
            raise ValueError(f"mixer.heads {self.heads} does not divide the width {width}")
        return AttentionMixer(width, self)


class AttentionMixer(Mixer):
    """See `AttentionMixerConfig`."""

    def __init__(self, width: int, config: AttentionMixerConfig):
        super().__init__()
        self.attn = Attention(width, config.heads, qk_norm=config.qk_norm, norm="rms")

    def forward(self, x: Tensor, points: Points) -> Tensor:
        """See `Mixer.forward`; where the points lie is in their tokens."""
        return self.attn(x)
