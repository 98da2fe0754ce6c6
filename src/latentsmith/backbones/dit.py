"""DiT and SiT: a transformer over patches of a latent, conditioned by AdaLN-zero.

    x = patches(z) + positions                              tokens [B, N, D]
    c = time(t) + label(y)                                  condition [B, D]
    x = x + gate · attention(scale, shift of norm(x))       depth times, shift, scale and gate
    x = x + gate · mlp(scale, shift of norm(x))             linear in SiLU(c) and 0 at the start
    z' = unpatch(linear(scale, shift of norm(x)))           0 at the start

Peebles & Xie 2023 (DiT); Ma et al. 2024 (SiT: the same network, as a flow). QK-norm, RoPE, SwiGLU
and RMSNorm as in LightningDiT (Yao et al. 2025). Loading published weights: `published`.
"""

from collections.abc import Collection
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.base import BACKBONES, BackboneOutput, Condition, Tap
from latentsmith.backbones.blocks.attention import Attention
from latentsmith.backbones.blocks.embedders import LabelEmbedder
from latentsmith.backbones.blocks.mlp import mlp
from latentsmith.backbones.blocks.modulation import Modulation, gated, modulate
from latentsmith.backbones.blocks.norms import Norm, normalize
from latentsmith.backbones.blocks.positions import rope_2d, sincos_2d
from latentsmith.backbones.blocks.weights import Constant, draw
from latentsmith.backbones.class_condition import ClassConditional, check_classes
from latentsmith.backbones.transformer import (
    SIZES,
    FinalLayer,
    PatchTransformer,
    PatchTransformerConfig,
    Size,
)
from latentsmith.config.schema import schema
from latentsmith.diffusion.parametrization import Parametrization

__all__ = ["SIZES", "DiT", "DiTConfig", "SiTConfig", "Size", "TransformerConfig"]

Position = Literal["sincos", "rope", "both"]


@schema
class TransformerConfig(PatchTransformerConfig):
    """What `SiTConfig` and `DiTConfig` share."""

    position: Position = "sincos"
    """How tokens know their place: sin-cos vectors added once, RoPE in every attention, or both."""
    learn_sigma: bool = False
    """Also put out a raw variance for each number, `BackboneOutput.variance`."""

    def rotary(self) -> bool:
        """See `PatchTransformerConfig.rotary`."""
        return self.position != "sincos"

    def build(self, latent_shape: tuple[int, int, int], classes: int | None) -> "DiT":
        """See `BackboneConfig.build`."""
        return DiT(self, latent_shape, classes)


@BACKBONES.register("sit", help="scalable interpolant transformer (SiT): predicts velocity")
@schema
class SiTConfig(TransformerConfig):
    """SiT. The published weights also have ``learn_sigma`` (and discard it) and see 1 − t."""

    kind: Literal["sit"] = "sit"


@BACKBONES.register("dit", help="diffusion transformer (DiT): predicts noise and its variance")
@schema
class DiTConfig(TransformerConfig):
    """DiT: the same network as SiT, for noise prediction over 1000 discrete steps."""

    kind: Literal["dit"] = "dit"
    predicts: Parametrization = "noise"
    """What the network's output means."""
    learn_sigma: bool = True
    """Also put out a raw variance for each number, `BackboneOutput.variance`."""
    time_scale: float = 1000.0
    """The time embedder sees time_scale x t + time_shift: with the defaults, DDPM's index."""
    time_shift: float = -1.0
    """See time_scale."""


class Block(nn.Module):
    """Attention and MLP, each normalized, modulated, gated and added."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, _, heads = config.shape()
        self.norm: Norm = config.norm
        self.attn = Attention(width, heads, qk_norm=config.qk_norm, norm=config.norm)
        self.mlp = mlp(config.mlp, width, config.mlp_ratio)
        self.modulation = Modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor, rope: Tensor | None) -> Tensor:
        """Tokens x [B, N, D], activated condition c [B, D] → [B, N, D]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation.vectors(c)
        h = modulate(normalize(x, self.norm), shift_a, scale_a)
        x = gated(x, gate_a, self.attn(h, rope))
        h = modulate(normalize(x, self.norm), shift_m, scale_m)
        return gated(x, gate_m, self.mlp(h))


class DiT(ClassConditional, PatchTransformer):
    """See the module's text. Start: `TransformerConfig.build`."""

    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, latent_shape: tuple[int, int, int], classes: int | None
    ):
        super().__init__(config, latent_shape)
        check_classes(classes)
        self.classes = classes
        _, _, heads = config.shape()
        outputs = self.latent_shape[0] * (2 if config.learn_sigma else 1)
        self.label = None if classes is None else LabelEmbedder(classes, self.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(self.depth))
        self.final = FinalLayer(config, outputs * config.patch**2)
        added, turned = config.position != "rope", config.position != "sincos"
        self.positions = Constant(partial(sincos_2d, self.width, self.grid)) if added else None
        self.rope = Constant(partial(rope_2d, self.width // heads, self.grid)) if turned else None
        draw(self, config.init_seed, self._spread)

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[Tap] = ()
    ) -> BackboneOutput:
        """See `Backbone.forward`; the output has z's dtype.

        Raises:
            UserError: z or t of another shape, no label for a conditional network or one for an
                unconditional network, taps that are no blocks.
        """
        self._check(z, t, condition, taps)
        dtype = self.patches.weight.dtype
        x = self.patches(self._patch(z).to(dtype))
        if self.positions is not None:
            x = x + self.positions().to(dtype)
        rope = None if self.rope is None else self.rope()
        c = self.time(t)
        if self.label is not None:
            c = c + self.label(condition["label"])
        c = F.silu(c)
        x, hidden = self._through(x, c, rope, taps=taps)
        out = self._unpatch(self.final(x, c)).to(z.dtype)
        if self.config.learn_sigma:
            sample, variance = out.chunk(2, dim=1)
            return BackboneOutput(sample, variance, hidden)
        return BackboneOutput(out, None, hidden)
