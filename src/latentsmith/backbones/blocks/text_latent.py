"""Ends of a network over text and a latent: embedding, times, heads (see `mmdit`)."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.embedders import time_frequencies
from latentsmith.backbones.blocks.modulation import Modulation, modulate
from latentsmith.backbones.blocks.norms import normalize
from latentsmith.backbones.blocks.weights import Constant, Linear

WAVES = 256
"""Cosines and sines of each time."""


class TokenEmbedding(nn.Module):
    """A vector for each token, also the head's matrix. Rows are of about unit length, and are
    scaled by √W on the way in."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids [B, L] or weights [B, L, V] → [B, L, W]."""
        relaxed = tokens.is_floating_point()
        x = tokens.to(self.weight) @ self.weight if relaxed else F.embedding(tokens, self.weight)
        return x * math.sqrt(x.shape[-1])


class TwoTimes(nn.Module):
    """Both times through one MLP: [B], [B] → activated condition [B, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.frequencies = Constant(partial(time_frequencies, WAVES // 2, 0))
        self.fc1 = Linear(2 * WAVES, width)
        self.fc2 = Linear(width, width)

    def forward(self, t_text: Tensor, t_lat: Tensor) -> Tensor:
        """Angles are computed in float32 whatever the autocast: in bfloat16, 1000 t is a multiple
        of 4."""
        frequencies = self.frequencies()
        angles = [1000 * t.to(frequencies)[:, None] * frequencies for t in (t_text, t_lat)]
        waves = torch.cat([f(a) for a in angles for f in (torch.cos, torch.sin)], dim=1)
        return F.silu(self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype)))))


class TextHead(nn.Module):
    """From tokens of the text stream to logits, with the embedding's rows as last matrix."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.modulation = Modulation(width, 2)
        self.dense = Linear(width, width)
        self.bias = nn.Parameter(torch.empty(vocabulary))

    def forward(self, x: Tensor, c: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        """x [B, L, W], c [B, W], positions [M], embedding rows [V, W] → logits [M, V]."""
        shift, scale = (v[positions // x.shape[1], 0] for v in self.modulation.vectors(c))
        x = normalize(x.flatten(0, 1)[positions], "layer")
        return F.linear(self.dense(modulate(x, shift, scale)), rows, self.bias)


class LatentHead(nn.Module):
    """From tokens of the latent stream back to a latent."""

    def __init__(self, width: int, tokens: int, dimension: int):
        super().__init__()
        self.tokens = tokens
        self.modulation = Modulation(width, 2)
        self.linear = Linear(tokens * width, dimension)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x [B, K0 K, W], c [B, W] → [B, K0, D]."""
        x = modulate(normalize(x, "layer"), *self.modulation.vectors(c))
        return self.linear(x.unflatten(1, (-1, self.tokens)).flatten(2))
