"""Attention among all tokens, and from them to others."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.norms import HeadNorm, Norm
from latentsmith.backbones.blocks.positions import rotate
from latentsmith.backbones.blocks.weights import Linear


class Attention(nn.Module):
    """Multi-head self-attention: one product for queries, keys and values, then torch's fused
    attention, which never holds the [N, N] weights of all heads.

    Args:
        width: channels D, a multiple of ``heads``.
        heads: number of heads.
        qk_norm: normalize queries and keys of each head, with a learned scale.
        norm: the kind of that norm.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False, norm: Norm = "layer"):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.q_norm = HeadNorm(width // heads, norm) if qk_norm else None
        self.k_norm = HeadNorm(width // heads, norm) if qk_norm else None

    def forward(self, x: Tensor, rope: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """x [B, N, D], rope [2, N, D/heads] → [B, N, D]. ``seen``, bool [B, N]: the tokens that
        are looked at, at least one of each sample; None: all."""
        # unbound before the transposes: then the three gradients are stacked where qkv's lies
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)  # [B, N, heads, head]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        mask = None if seen is None else seen[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to others, such as a text's. Arguments as `Attention`'s."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False, norm: Norm = "layer"):
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, width)
        self.q_norm = HeadNorm(width // heads, norm) if qk_norm else None
        self.k_norm = HeadNorm(width // heads, norm) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        others: Tensor,
        seen: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """x [B, N, D], others [B, L, D] → [B, N, D].

        ``seen``, bool [B, L]: the others that are looked at; None: all. Floats in [0, 1] say how
        much each counts: two halves of one as much as it. Who may look at none of them sees zeros.
        ``bias``, [B, heads, N, L] or broadcast to it: added to the attention's logits; instead of
        ``seen``.
        """
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, N, head]
        k, v = self.kv(others).unflatten(2, (2, self.heads, -1)).unbind(2)  # [B, L, heads, head]
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if seen is None:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=None if bias is None else bias.to(q.dtype)
            )
        else:
            any_seen = seen.any(1, keepdim=True)  # a softmax over nothing would be NaN
            if seen.is_floating_point():  # exp(logit + log w) = w exp(logit)
                mask = torch.where(any_seen, seen, 1).log().to(q.dtype)
            else:
                mask = seen | ~any_seen
            mask = mask[:, None, None]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            y = y * any_seen[:, None, None].to(y.dtype)
        return self.proj(y.transpose(1, 2).flatten(2))
