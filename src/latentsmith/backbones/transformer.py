"""What all transformers over patches of a latent share: settings, patches, time, the way through
the blocks, and back to latents. The networks: `latentsmith.backbones.dit`, `.text_dit`."""

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentsmith.backbones.base import Backbone, BackboneConfig, Tap
from latentsmith.backbones.blocks.embedders import TimeEmbedder
from latentsmith.backbones.blocks.mlp import MLPKind
from latentsmith.backbones.blocks.modulation import Modulation, modulate
from latentsmith.backbones.blocks.norms import Norm, normalize
from latentsmith.backbones.blocks.weights import Linear
from latentsmith.config.schema import schema
from latentsmith.errors import UserError

Size = Literal["S", "B", "L", "XL"]

#  size        width depth heads
SIZES: dict[Size, tuple[int, int, int]] = {
    "S":  ( 384,   12,   6),
    "B":  ( 768,   12,  12),
    "L":  (1024,   24,  16),
    "XL": (1152,   28,  16),
}  # fmt: skip


@schema
class PatchTransformerConfig(BackboneConfig):
    """Settings of every transformer over patches. ``size`` gives width, depth and heads; each can
    be set apart from it."""

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
        rope = self.rotary()
        if width % heads or (rope and width // heads % 4):
            raise ValueError(
                f"width {width} must be a multiple of {'4 x heads' if rope else 'heads'} "
                f"({heads} heads), such as {heads * 4 * max(1, round(width / heads / 4))}"
            )
        if width % 4:
            raise ValueError(f"width {width} must be a multiple of 4, for sines and cosines")

    def rotary(self) -> bool:
        """Whether attention turns queries and keys by their place (RoPE)."""
        return False

    def shape(self) -> tuple[int, int, int]:
        """(width, depth, heads) after ``size`` and what overrides it."""
        width, depth, heads = SIZES[self.size] if self.size else (0, 0, 0)
        return self.width or width, self.depth or depth, self.heads or heads


class FinalLayer(nn.Module):
    """From tokens to the numbers of their patches."""

    def __init__(self, config: PatchTransformerConfig, numbers: int):
        super().__init__()
        width, _, _ = config.shape()
        self.norm: Norm = config.norm
        self.modulation = Modulation(width, 2)
        self.linear = Linear(width, numbers)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """[B, N, D], [B, D] → [B, N, numbers]."""
        shift, scale = self.modulation.vectors(c)
        return self.linear(modulate(normalize(x, self.norm), shift, scale))


class PatchTransformer(Backbone):
    """Cuts latents into patches, runs blocks over their tokens, puts patches together again.

    Subclasses make ``blocks``, ``final`` and what else conditions them, then draw all weights.

    Args:
        config: its settings.
        latent_shape: (C, H, W).

    Raises:
        UserError: sides that are no multiples of the patch.
    """

    config: PatchTransformerConfig
    blocks: nn.ModuleList

    def __init__(self, config: PatchTransformerConfig, latent_shape: tuple[int, int, int]):
        super().__init__()
        channels, *sides = latent_shape
        p = config.patch
        if any(side < p or side % p for side in sides):
            raise UserError(
                f"latents of {sides[0]} x {sides[1]} cannot be cut into patches of side {p}: set "
                f"patch to a divisor of both sides, or choose another resolution"
            )
        self.config, self.predicts = config, config.predicts
        self.latent_shape = channels, sides[0], sides[1]
        self.grid = sides[0] // p, sides[1] // p
        self.width, self.depth, _ = config.shape()
        self.patches = Linear(channels * p * p, self.width)
        self.time = TimeEmbedder(
            self.width,
            scale=config.time_scale,
            shift=config.time_shift,
            spacing=config.time_spacing,
        )

    @staticmethod
    def _spread(name: str) -> float | None:
        """Published standard deviations of the initial weights, see
        `latentsmith.backbones.blocks.weights.draw`."""
        if "modulation" in name or name == "final.linear.weight":
            return 0.0  # every block is the identity, and the output 0
        return 0.02 if name.startswith(("time.", "label.")) else None

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

    def _through(
        self, x: Tensor, *given: Tensor | None, taps: Collection[Tap]
    ) -> tuple[Tensor, dict[Tap, Tensor]]:
        """The tokens of the latents, which come first in x [B, N or more, D], after the last
        block and after those of ``taps``; ``given`` goes to every block beside x."""
        own = self.grid[0] * self.grid[1]
        hidden: dict[Tap, Tensor] = {}
        again = self.config.gradient_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate(self.blocks, start=1):
            x = checkpoint(block, x, *given, use_reentrant=False) if again else block(x, *given)
            if number in taps:
                hidden[number] = x[:, :own]
        return x[:, :own], hidden
