"""``text_dit``: a transformer over patches of a latent that looks at a text, and at an image to
edit.

    x = patches(z) + positions                              tokens [B, N, D]
    s = patches(source) + positions + type                  of the image to edit, if there is one
    c = time(t)                                             condition [B, D]
    y = mlp(norm(text))                                     [B, L, D]
    x, s = x, s + gate · attention(among x and s)           depth times; inputs normalized, scaled
    x, s = x, s + gate · attention(to y)                    and shifted; all shifts, scales, gates
    x, s = x, s + gate · mlp                                linear in SiLU(c) and 0 at the start
    z' = unpatch(linear(scale, shift of norm(x)))           0 at the start

Peebles & Xie 2023 (DiT: AdaLN-zero); Chen et al. 2023 (PixArt-α, arXiv 2310.00426: cross-attention
after self-attention, an MLP on the text), but every branch is modulated and gated by AdaLN-zero,
the cross-attention too: a fresh network is the identity in all of them.

The source goes through the patch embedding of the noisy latents, which it is one of at t = 0, has
their positions, so that a token finds its place in it, and a learned type that tells it apart. A
sample without source sees exactly what it would see if no sample had one: its source is masked out
of the attention.

With T5-XXL's texts (text_width=4096) and latents of 96 x 16 x 16, patch 1, ``size=XL`` has
940,234,848 weights; DiT-XL of these latents, told 1000 classes instead, 675,000,672.
"""

from collections.abc import Collection
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.base import BACKBONES, BackboneOutput, Condition, Tap
from latentsmith.backbones.blocks.attention import Attention, CrossAttention
from latentsmith.backbones.blocks.embedders import TextEmbedder
from latentsmith.backbones.blocks.mlp import mlp
from latentsmith.backbones.blocks.modulation import Modulation, gated, modulate
from latentsmith.backbones.blocks.norms import Norm, normalize
from latentsmith.backbones.blocks.positions import rope_2d, sincos_2d
from latentsmith.backbones.blocks.weights import Constant, draw
from latentsmith.backbones.edit_condition import EditCondition
from latentsmith.backbones.transformer import FinalLayer, PatchTransformer, PatchTransformerConfig
from latentsmith.config.schema import schema
from latentsmith.errors import UserError

Position = Literal["sincos", "learned", "rope", "both"]


@BACKBONES.register("text_dit", help="diffusion transformer told texts and images to edit")
@schema
class TextDiTConfig(PatchTransformerConfig):
    """A diffusion transformer with cross-attention to texts. ``predicts`` velocity (flows) or noise
    (DDPM), or any other."""

    kind: Literal["text_dit"] = "text_dit"
    text_width: Annotated[int, Field(gt=0)] = 384
    """Width E of the texts' token embeddings: 384 MiniLM, 768 CLIP, 4096 T5-XXL."""
    text_length: Annotated[int, Field(gt=0)] = 77
    """Positions L of the empty prompt's embedding, which the network keeps (`TextDiT.set_null`)."""
    patch: Annotated[int, Field(gt=0)] = 1
    """Side of the square of latent positions that makes a token: 1 for latents of stride 14 or 16,
    2 for those of stride 8."""
    position: Position = "sincos"
    """How tokens know their place: sin-cos vectors added once, learned ones (for one size of
    latents only), RoPE in every attention among them, or sin-cos and RoPE (both)."""
    time_scale: float = 1000.0
    """The time embedder sees time_scale x t + time_shift: with 1000, its fastest waves tell the
    steps of a DDPM apart, and flows are as well off (SD3)."""

    def rotary(self) -> bool:
        """See `PatchTransformerConfig.rotary`."""
        return self.position in ("rope", "both")

    def build(self, latent_shape: tuple[int, int, int], classes: int | None = None) -> "TextDiT":
        """See `BackboneConfig.build`. ``classes`` is always None: conditions are texts; else
        UserError."""
        if classes is not None:
            raise UserError(
                f"text_dit is conditioned on texts, not on {classes} classes: cache the class "
                "names' embeddings as texts ('a photo of a ...'), or use backbone=sit or dit"
            )
        return TextDiT(self, latent_shape)


class TextBlock(nn.Module):
    """Self-attention, cross-attention to the text and MLP, each normalized, modulated, gated and
    added."""

    def __init__(self, config: TextDiTConfig):
        super().__init__()
        width, _, heads = config.shape()
        self.norm: Norm = config.norm
        self.attn = Attention(width, heads, qk_norm=config.qk_norm, norm=config.norm)
        self.cross = CrossAttention(width, heads, qk_norm=config.qk_norm, norm=config.norm)
        self.mlp = mlp(config.mlp, width, config.mlp_ratio)
        self.modulation = Modulation(width, 9)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        text: Tensor,
        mask: Tensor | None,
        rope: Tensor | None,
        seen: Tensor | None,
    ) -> Tensor:
        """Tokens x [B, N, D], activated condition c [B, D], text [B, L, D] and its mask [B, L] (see
        `CrossAttention`), which of x are looked at, bool [B, N] → [B, N, D]."""
        shifts_scales_gates = self.modulation.vectors(c)
        shift, scale, gate = shifts_scales_gates[:3]
        h = modulate(normalize(x, self.norm), shift, scale)
        x = gated(x, gate, self.attn(h, rope, seen))
        shift, scale, gate = shifts_scales_gates[3:6]
        h = modulate(normalize(x, self.norm), shift, scale)
        x = gated(x, gate, self.cross(h, text, mask))
        shift, scale, gate = shifts_scales_gates[6:]
        h = modulate(normalize(x, self.norm), shift, scale)
        return gated(x, gate, self.mlp(h))


class TextDiT(PatchTransformer):
    """See the module's text. Start: `TextDiTConfig.build`.

    Attributes:
        conditions: what it is conditioned on, and its empty prompt.
    """

    config: TextDiTConfig
    edits = True

    def __init__(self, config: TextDiTConfig, latent_shape: tuple[int, int, int]):
        super().__init__(config, latent_shape)
        self.classes = None
        _, _, heads = config.shape()
        numbers = self.latent_shape[0] * config.patch**2
        self.conditions = EditCondition(config.text_length, config.text_width, self.latent_shape)
        self.text = TextEmbedder(config.text_width, self.width, config.norm)
        self.source_type = nn.Parameter(torch.empty(1, self.width))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(self.depth))
        self.final = FinalLayer(config, numbers)
        self.positions: nn.Module | None = None
        self.learned: nn.Parameter | None = None
        if config.position == "learned":
            tokens = self.grid[0] * self.grid[1]
            self.learned = nn.Parameter(torch.empty(tokens, self.width))
        elif config.position != "rope":
            self.positions = Constant(partial(sincos_2d, self.width, self.grid))
        turned = config.rotary()
        self.rope = Constant(partial(rope_2d, self.width // heads, self.grid)) if turned else None
        draw(self, config.init_seed, self._spread)

    @staticmethod
    def _spread(name: str) -> float | None:
        if name in ("source_type", "learned"):
            return 0.02
        return PatchTransformer._spread(name)

    @property
    def takes(self) -> tuple[str, ...]:
        """``text``; it may also be given ``mask``, ``source`` and ``has_source``
        (`EditCondition`). See `Backbone.takes`."""
        return ("text",)

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, *, taps: Collection[Tap] = ()
    ) -> BackboneOutput:
        """See `Backbone.forward` and `EditCondition`; the output has z's dtype. Tokens at taps are
        those of z; the source's are left out.

        Raises:
            UserError: z, t or the condition of another shape, parts of it missing or unknown, taps
                that are no blocks.
        """
        self.check_latents(z, t)
        self.conditions.check(condition, len(z))
        self.check_taps(taps)
        c, x = self.time(t), self._tokens(z)
        rope, seen = None if self.rope is None else self.rope(), None
        if "source" in condition:
            x = torch.cat([x, self._tokens(condition["source"]) + self.source_type], dim=1)
            rope = None if rope is None else rope.repeat(1, 2, 1)
            seen = self._seen(condition)
        else:
            # data parallelism waits for a gradient of every parameter, in every step
            c = c + 0.0 * self.source_type
        c, text, mask = F.silu(c), self.text(condition["text"]), condition.get("mask")
        if mask is not None and not mask.is_floating_point():
            mask = mask.bool()
        x, hidden = self._through(x, c, text, mask, rope, seen, taps=taps)
        return BackboneOutput(self._unpatch(self.final(x, c)).to(z.dtype), None, hidden)

    def set_null(self, text: Tensor, mask: Tensor | None = None) -> None:
        """Keep the empty prompt's embedding [L, E] and its mask [L]. See
        `EditCondition.set_null`."""
        self.conditions.set_null(text, mask)

    def null(self, condition: Condition) -> Condition:
        """The empty prompt, and no source. See `Backbone.null` and `EditCondition.null`."""
        return self.conditions.null(condition)

    def null_text(self, condition: Condition) -> Condition:
        """The empty prompt; sources stay. See `Backbone.null_text`."""
        return self.conditions.null_text_of(condition)

    def nothing(self, count: int, device: torch.device) -> Condition:
        """The empty prompt ``count`` times. Raises UserError when none was kept."""
        return self.conditions.nothing(count, device)

    def complete(self, condition: Condition) -> Condition:
        """See `EditCondition.complete`."""
        return self.conditions.complete(condition)

    def _tokens(self, z: Tensor) -> Tensor:
        """[B, C, H, W] → [B, N, D], with positions."""
        dtype = self.patches.weight.dtype
        x = self.patches(self._patch(z).to(dtype))
        if self.learned is not None:
            return x + self.learned
        return x if self.positions is None else x + self.positions().to(dtype)

    def _seen(self, condition: Condition) -> Tensor | None:
        """Which of the tokens of latents and source are looked at, bool [B, 2 N]; None: all."""
        has = condition.get("has_source")
        if has is None:
            return None
        count = self.grid[0] * self.grid[1]
        there = has.bool()[:, None].expand(-1, count)
        return torch.cat([torch.ones_like(there), there], dim=1)
