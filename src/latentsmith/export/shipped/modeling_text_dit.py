"""A diffusion transformer told texts and images to edit, as a diffusers model."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.embedders import TextEmbedder, TimeEmbedder
from latentsmith.backbones.blocks.positions import rope_2d, sincos_2d
from latentsmith.backbones.blocks.weights import Constant, Linear
from latentsmith.backbones.text_dit import TextBlock
from latentsmith.backbones.transformer import FinalLayer


class EmptyPrompt(nn.Module):
    """Embedding and mask of the text that says nothing, ``null_text`` [L, E] and ``null_mask``
    [L]."""

    null_text: Tensor
    null_mask: Tensor

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("null_text", torch.zeros(length, width))
        self.register_buffer("null_mask", torch.ones(length, dtype=torch.bool))


class TextDiTModel(ModelMixin, ConfigMixin):
    """Noisy latents, time and text to a prediction, in the parametrization ``config.predicts``.

    Args:
        channels, rows, columns: of the latents [C, H, W].
        width, depth, heads: of the transformer.
        patch: side of the square of latent positions that makes a token.
        mlp: gelu or swiglu, with ``mlp_ratio`` x width hidden channels (or as many weights).
        norm: layer or rms. qk_norm: normalize queries and keys too.
        position: sincos, learned, rope or both (sincos and rope).
        time_scale, time_shift, time_spacing: the network sees time_scale t + time_shift.
        text_width, text_length: of texts [B, L, E].
        predicts: velocity, noise, data or v; for whoever samples.
    """

    @register_to_config
    def __init__(
        self,
        channels: int,
        rows: int,
        columns: int,
        width: int,
        depth: int,
        heads: int,
        patch: int = 1,
        mlp: str = "gelu",
        mlp_ratio: float = 4.0,
        norm: str = "layer",
        qk_norm: bool = False,
        position: str = "sincos",
        time_scale: float = 1000.0,
        time_shift: float = 0.0,
        time_spacing: int = 0,
        text_width: int = 384,
        text_length: int = 77,
        predicts: str = "velocity",
    ):
        super().__init__()
        self.grid, numbers = (rows // patch, columns // patch), channels * patch**2
        self.patch = patch
        shape: Any = SimpleNamespace(
            shape=lambda: (width, depth, heads),
            mlp=mlp, mlp_ratio=mlp_ratio, norm=norm, qk_norm=qk_norm,
        )  # fmt: skip
        kind: Any = norm
        self.patches = Linear(numbers, width)
        self.time = TimeEmbedder(width, scale=time_scale, shift=time_shift, spacing=time_spacing)
        self.conditions = EmptyPrompt(text_length, text_width)
        self.text = TextEmbedder(text_width, width, kind)
        self.source_type = nn.Parameter(torch.empty(1, width))
        self.blocks = nn.ModuleList(TextBlock(shape) for _ in range(depth))
        self.final = FinalLayer(shape, numbers)
        tokens = self.grid[0] * self.grid[1]
        learned = position == "learned"
        self.learned = nn.Parameter(torch.empty(tokens, width)) if learned else None
        added, turned = position in ("sincos", "both"), position in ("rope", "both")
        self.positions = Constant(partial(sincos_2d, width, self.grid)) if added else None
        self.rope = Constant(partial(rope_2d, width // heads, self.grid)) if turned else None
        for module in self.modules():
            if isinstance(module, Constant):
                # made anew: from_pretrained(torch_dtype=…) had half precision as the default
                module._apply(lambda values: values)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        source: Tensor | None = None,
        has_source: Tensor | None = None,
    ) -> Tensor:
        """The prediction [B, C, H, W].

        Args:
            hidden_states: noisy latents [B, C, H, W], normalized.
            timestep: [B] in [0, 1]: 0 is data, 1 noise.
            encoder_hidden_states: texts [B, L, E].
            encoder_attention_mask: [B, L], where there is a token; None: everywhere.
            source: normalized latents of images to edit [B, C, H, W].
            has_source: bool [B], which samples have one; None: all.
        """
        c, x = self.time(timestep), self._tokens(hidden_states)
        rope, seen = None if self.rope is None else self.rope(), None
        if source is not None:
            own = x.shape[1]
            x = torch.cat([x, self._tokens(source) + self.source_type], dim=1)
            rope = None if rope is None else rope.repeat(1, 2, 1)
            if has_source is not None:
                there = has_source.bool()[:, None].expand(-1, own)
                seen = torch.cat([torch.ones_like(there), there], dim=1)
        c, text = F.silu(c), self.text(encoder_hidden_states)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        for block in self.blocks:
            x = block(x, c, text, mask, rope, seen)
        x = self.final(x[:, : self.grid[0] * self.grid[1]], c)
        return self._unpatch(x).to(hidden_states.dtype)

    def _tokens(self, z: Tensor) -> Tensor:
        """[B, C, H, W] → [B, N, D], with positions."""
        p, (rows, columns), dtype = self.patch, self.grid, self.patches.weight.dtype
        z = z.reshape(len(z), -1, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        x = self.patches(z.flatten(3).flatten(1, 2).to(dtype))
        if self.learned is not None:
            return x + self.learned
        return x if self.positions is None else x + self.positions().to(dtype)

    def _unpatch(self, x: Tensor) -> Tensor:
        """[B, N, p p C] → [B, C, H, W]."""
        p, (rows, columns) = self.patch, self.grid
        x = x.view(len(x), rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(x), -1, rows * p, columns * p)
