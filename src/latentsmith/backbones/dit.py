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
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from latentsmith.backbones.base import (
    BACKBONES,
    Backbone,
    BackboneConfig,
    BackboneOutput,
    Condition,
    Tap,
)
from latentsmith.backbones.blocks.attention import Attention
from latentsmith.backbones.blocks.embedders import LabelEmbedder, TimeEmbedder
from latentsmith.backbones.blocks.mlp import MLPKind, mlp
from latentsmith.backbones.blocks.modulation import Modulation, gated, modulate
from latentsmith.backbones.blocks.norms import Norm, normalize
from latentsmith.backbones.blocks.positions import rope_2d, sincos_2d
from latentsmith.backbones.blocks.weights import Constant, Linear, draw
from latentsmith.config.schema import schema
from latentsmith.diffusion.parametrization import Parametrization
from latentsmith.errors import UserError

Size = Literal["S", "B", "L", "XL"]
Position = Literal["sincos", "rope", "both"]

#  size        width depth heads
SIZES: dict[Size, tuple[int, int, int]] = {
    "S":  ( 384,   12,   6),
    "B":  ( 768,   12,  12),
    "L":  (1024,   24,  16),
    "XL": (1152,   28,  16),
}  # fmt: skip


@schema
class TransformerConfig(BackboneConfig):
    """What `SiTConfig` and `DiTConfig` share. ``size`` gives width, depth and heads; each can be
    set apart from it."""

    size: Size | None = "S"
    """Published width, depth and heads: S, B, L or XL. With null, give all three."""
    width: Annotated[int, Field(gt=0)] | None = None
    """Channels of a token, instead of the size's: a multiple of heads and of 4."""
    depth: Annotated[int, Field(gt=0)] | None = None
    """Number of blocks, instead of the size's."""
    heads: Annotated[int, Field(gt=0)] | None = None
    """Attention heads, instead of the size's."""
    patch: Annotated[int, Field(gt=0)] = 2
    """Side of the square of latent positions that makes a token (published: 2, 4, 8; 1 for
    latents of stride 16)."""
    mlp: MLPKind = "gelu"
    """The MLP of a block: gelu, or swiglu with as many weights."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden channels of the MLP, in widths."""
    norm: Norm = "layer"
    """LayerNorm or RMSNorm (rms), both without weights: the condition scales and shifts."""
    qk_norm: bool = False
    """Normalize queries and keys of each head: steadier in long or half-precision trainings."""
    position: Position = "sincos"
    """How tokens know their place: sin-cos vectors added once, RoPE in every attention, or both."""
    learn_sigma: bool = False
    """Also put out a raw variance for each number, `BackboneOutput.variance`."""
    time_scale: float = 1.0
    """The time embedder sees time_scale x t + time_shift, t in [0, 1]."""
    time_shift: float = 0.0
    """See time_scale."""
    time_spacing: Literal[0, 1] = 0
    """Spacing of the time embedder's frequencies: 0 as DiT and SiT, 1 as diffusers' class."""
    gradient_checkpointing: bool = False
    """Recompute each block in the backward pass: about a third more time, far less memory."""

    def __post_init__(self) -> None:
        lacking = [n for n in ("width", "depth", "heads") if getattr(self, n) is None]
        if self.size is None and lacking:
            raise ValueError(
                f"without a size, {' and '.join(lacking)} must be given (sizes: {', '.join(SIZES)})"
            )
        width, _, heads = self.shape()
        rope = self.position != "sincos"
        if width % heads or (rope and width // heads % 4):
            raise ValueError(
                f"width {width} must be a multiple of {'4 x heads' if rope else 'heads'} "
                f"({heads} heads), such as {heads * 4 * max(1, round(width / heads / 4))}"
            )
        if width % 4:
            raise ValueError(f"width {width} must be a multiple of 4, for sines and cosines")

    def shape(self) -> tuple[int, int, int]:
        """(width, depth, heads) after ``size`` and what overrides it."""
        width, depth, heads = SIZES[self.size] if self.size else (0, 0, 0)
        return self.width or width, self.depth or depth, self.heads or heads

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


class FinalLayer(nn.Module):
    """From tokens to the numbers of their patches."""

    def __init__(self, config: TransformerConfig, numbers: int):
        super().__init__()
        width, _, _ = config.shape()
        self.norm: Norm = config.norm
        self.modulation = Modulation(width, 2)
        self.linear = Linear(width, numbers)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """[B, N, D], [B, D] → [B, N, numbers]."""
        shift, scale = self.modulation.vectors(c)
        return self.linear(modulate(normalize(x, self.norm), shift, scale))


class DiT(Backbone):
    """See the module's text. Start: `TransformerConfig.build`."""

    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, latent_shape: tuple[int, int, int], classes: int | None
    ):
        super().__init__()
        channels, *sides = latent_shape
        p = config.patch
        if any(side < p or side % p for side in sides):
            raise UserError(
                f"latents of {sides[0]} x {sides[1]} cannot be cut into patches of side {p}: set "
                f"patch to a divisor of both sides, or choose another resolution"
            )
        if classes is not None and classes < 1:
            raise UserError(f"{classes} classes: give at least one, or None for unconditional")
        self.config, self.predicts, self.classes = config, config.predicts, classes
        self.latent_shape = channels, sides[0], sides[1]
        self.grid = sides[0] // p, sides[1] // p
        self.width, self.depth, heads = config.shape()
        outputs = 2 * channels if config.learn_sigma else channels

        self.patches = Linear(channels * p * p, self.width)
        self.time = TimeEmbedder(
            self.width,
            scale=config.time_scale,
            shift=config.time_shift,
            spacing=config.time_spacing,
        )
        self.label = None if classes is None else LabelEmbedder(classes, self.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(self.depth))
        self.final = FinalLayer(config, outputs * p * p)
        added, turned = config.position != "rope", config.position != "sincos"
        self.positions = Constant(partial(sincos_2d, self.width, self.grid)) if added else None
        self.rope = Constant(partial(rope_2d, self.width // heads, self.grid)) if turned else None
        draw(self, config.init_seed, self._spread)

    @staticmethod
    def _spread(name: str) -> float | None:
        """Published standard deviations of the initial weights, see `draw`."""
        if "modulation" in name or name == "final.linear.weight":
            return 0.0  # every block is the identity, and the output 0
        return 0.02 if name.startswith(("time.", "label.")) else None

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
        hidden: dict[Tap, Tensor] = {}
        again = self.config.gradient_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate(self.blocks, start=1):
            x = checkpoint(block, x, c, rope, use_reentrant=False) if again else block(x, c, rope)
            if number in taps:
                hidden[number] = x
        out = self._unpatch(self.final(x, c)).to(z.dtype)
        if self.config.learn_sigma:
            sample, variance = out.chunk(2, dim=1)
            return BackboneOutput(sample, variance, hidden)
        return BackboneOutput(out, None, hidden)

    def null(self, condition: Condition) -> Condition:
        """The extra last class. See `Backbone.null`."""
        if self.classes is None:
            raise UserError(
                "this network is unconditional: it has no null condition, so neither label dropout"
                " nor guidance apply; build it with classes, or sample without guidance"
            )
        self._check_label(condition)
        return {"label": torch.full_like(condition["label"], self.classes)}

    def _patch(self, z: Tensor) -> Tensor:
        """[B, C, H, W] → [B, N, C p p]."""
        p, (rows, columns) = self.config.patch, self.grid
        z = z.reshape(len(z), -1, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        return z.flatten(3).flatten(1, 2)

    def _unpatch(self, x: Tensor) -> Tensor:
        """[B, N, p p C] → [B, C, H, W]."""
        p, (rows, columns) = self.config.patch, self.grid
        x = x.view(len(x), rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(x), -1, rows * p, columns * p)

    def _check(self, z: Tensor, t: Tensor, condition: Condition, taps: Collection[Tap]) -> None:
        self.check_latents(z, t)
        if self.classes is not None:
            self._check_label(condition)
            if condition["label"].shape != z.shape[:1]:
                shape = list(condition["label"].shape)
                raise UserError(f"labels of shape {shape} for {len(z)} latents: give one each")
        elif "label" in condition:
            raise UserError(
                "labels given to an unconditional network: leave them out, or build it with classes"
            )
        wrong = [tap for tap in taps if not (isinstance(tap, int) and 1 <= tap <= self.depth)]
        if wrong:
            raise UserError(f"there is no block {wrong[0]}: blocks are 1 … {self.depth}")

    def _check_label(self, condition: Condition) -> None:
        if "label" not in condition:
            raise UserError(
                f"this network was built for {self.classes} classes and got no 'label': give int64 "
                "[B], with null() where there is none"
            )
