"""Attention of two streams to each other, each with weights of its own (MMDiT: Esser et al. 2024,
arXiv 2403.03206, figure 2b).

A stream is a sequence of tokens of one modality. Each has its own norms, modulation, projections
and MLP; queries, keys and values of both meet in one attention.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.mlp import MLP
from latentsmith.backbones.blocks.modulation import Modulation, gated, modulate
from latentsmith.backbones.blocks.norms import HeadNorm, normalize
from latentsmith.backbones.blocks.positions import rotate
from latentsmith.backbones.blocks.weights import Linear


class Stream(nn.Module):
    """What one stream owns in a block.

    Args:
        width: channels W, a multiple of ``heads``.
        heads: attention heads.
        hidden: hidden channels of the MLP.
        qk_norm: RMS norm of each head's queries and keys, with a learned scale.
        context_only: the stream is looked at and not changed any more: keys and values alone.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, qk_norm: bool, context_only: bool = False
    ):
        super().__init__()
        self.heads, self.context_only = heads, context_only
        self.modulation = Modulation(width, 2 if context_only else 6)
        self.qkv = Linear(width, (2 if context_only else 3) * width, bias=False)
        self.k_norm = HeadNorm(width // heads, "rms") if qk_norm else None
        self.q_norm = None
        if not context_only:
            self.q_norm = HeadNorm(width // heads, "rms") if qk_norm else None
            self.proj = Linear(width, width)
            self.mlp = MLP(width, hidden)

    def enter(
        self, x: Tensor, vectors: tuple[Tensor, ...], rope: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """x [B, N, W] → queries (None of a context), keys, values [B, heads, N, W/heads]."""
        x = modulate(normalize(x, "layer"), vectors[0], vectors[1])
        asks = 0 if self.context_only else 1
        x = self.qkv(x).unflatten(2, (asks + 2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        qk, v = x.split([asks + 1, 1])  # [1 or 2, B, heads, N, W/heads]: one norm, one rotation
        if self.k_norm is not None:
            gains: list[Tensor] = [
                norm.weight for norm in (self.q_norm, self.k_norm) if norm is not None
            ]
            qk = normalize(qk, "rms") * torch.stack(gains)[:, None, None, None].to(qk.dtype)
        if rope is not None:
            qk = rotate(qk, rope)
        return (qk[0] if asks else None), qk[asks], v[0]

    def leave(self, x: Tensor, y: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        """x [B, N, W] after what attention gave it, y [B, N, W], and its MLP."""
        _, _, gate, shift, scale, mlp_gate = vectors
        x = gated(x, gate, self.proj(y))
        return gated(x, mlp_gate, self.mlp(modulate(normalize(x, "layer"), shift, scale)))


class JointBlock(nn.Module):
    """One attention over the tokens of two streams.

    Args:
        text, latent: the streams; one and the same where their weights are shared.
    """

    def __init__(self, text: Stream, latent: Stream):
        super().__init__()
        self.streams = nn.ModuleList([text] if text is latent else [text, latent])

    def forward(
        self,
        text: Tensor,
        latent: Tensor,
        c_text: Tensor,
        c_latent: Tensor,
        rope: Tensor,
        seen: Tensor | None = None,
        wanted: tuple[bool, bool] = (True, True),
    ) -> tuple[Tensor, Tensor]:
        """text [B, L, W], latent [B, K, W] → the same shapes.

        Args:
            c_text, c_latent: activated conditions [B, W].
            rope: of the text's places [2, L, W/heads]; latent tokens have none, they are a set.
            seen: bool [B, 1, 1, L + K], tokens that are looked at; None: all.
            wanted: which streams are read afterwards. What is not comes back as it was.
        """
        own: list[Stream] = [self.streams[0], self.streams[-1]]  # type: ignore[list-item]
        given = [(text, c_text, rope), (latent, c_latent, None)]
        vectors = [s.modulation.vectors(c) for s, (_, c, _) in zip(own, given, strict=True)]
        entered = [s.enter(x, v, r) for s, (x, _, r), v in zip(own, given, vectors, strict=True)]
        asking = [n for n in (0, 1) if wanted[n] and not own[n].context_only]
        queries = [entered[n][0] for n in asking]
        q = torch.cat([query for query in queries if query is not None], dim=2)
        k = torch.cat([key for _, key, _ in entered], dim=2)  # [B, heads, L + K, W/heads]
        v = torch.cat([value for _, _, value in entered], dim=2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = y.transpose(1, 2).flatten(2)  # [B, tokens that ask, W]
        out = [text, latent]
        answers = y.split([out[n].shape[1] for n in asking], dim=1)
        for n, answer in zip(asking, answers, strict=True):
            out[n] = own[n].leave(out[n], answer, vectors[n])
        return out[0], out[1]
