"""What is linear between a latent and the tokens of its text, beside a network's blocks.

    x̂      = blocks + (1 − t_text)(1 + g)(b + Σ_i κ_i r_i / √Σ_i κ_i)    i over the text's tokens
    logits = blocks + (1 − t_lat)(1 + g)(d + U z)                        the same at every position

A narrow network must press a latent of hundreds of numbers, and a vocabulary of thousands, through
its width; these two do not pass through it (Cheng et al. 2016, arXiv 1606.07792: wide & deep). Both
have closed forms, a ridge from bags of tokens (`latentsmith.metrics.text_baselines`) and linear
discriminants of tokens (`latentsmith.metrics.token_odds`), which are hard to beat: a network that
starts from them learns what they miss. Gates g(t_text, t_lat) start at 0, and what is absent
(t = 1) says nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.weights import Linear


class BagToLatent(nn.Module):
    """A row for each token, added up: text → latent.

    Attributes:
        counted: which tokens count κ [V]; all, until `start`.
    """

    counted: Tensor

    def __init__(self, vocabulary: int, dimension: int, width: int):
        super().__init__()
        self.rows = nn.Parameter(torch.empty(vocabulary, dimension))
        self.offset = nn.Parameter(torch.empty(dimension))
        self.gate = Linear(width, 1)
        self.register_buffer("counted", torch.ones(vocabulary))

    @torch.no_grad()
    def start(self, tokens: Tensor, rows: Tensor, offset: Tensor) -> None:
        """Set rows [P, D] of the token ids [P], the only ones that count, and the offset [D]."""
        self.rows.zero_()[tokens] = rows.to(self.rows)
        self.counted.zero_()[tokens] = 1
        self.offset.copy_(offset)

    def forward(self, tokens: Tensor, t_text: Tensor, c: Tensor, seen: Tensor | None) -> Tensor:
        """Ids [B, L] or weights [B, L, V], times [B], condition [B, W], places that are there
        [B, L] → [B, D]."""
        relaxed = tokens.is_floating_point()
        counted = tokens.to(self.counted) @ self.counted if relaxed else self.counted[tokens]
        if seen is not None:
            counted = counted * seen
        if relaxed:
            if seen is not None:
                tokens = tokens * seen[..., None]
            added = (tokens.sum(1) * self.counted).to(self.rows) @ self.rows
        else:
            added = (F.embedding(tokens, self.rows) * counted[..., None]).sum(1)
        said = self.offset + added * counted.sum(1, keepdim=True).clamp_min(1).rsqrt()
        return (1 - t_text)[:, None] * (1 + self.gate(c)) * said


class LatentToTokens(nn.Module):
    """Logits of tokens wherever they stand: latent → text."""

    def __init__(self, vocabulary: int, dimension: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, dimension))
        self.bias = nn.Parameter(torch.empty(vocabulary))
        self.gate = Linear(width, 1)

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Set U [V, D] and d [V]."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, latents: Tensor, t_lat: Tensor, c: Tensor) -> Tensor:
        """Latents [B, D], times [B], condition [B, W] → [B, V]."""
        odds = F.linear(latents.to(self.weight), self.weight, self.bias)
        return (1 - t_lat)[:, None] * (1 + self.gate(c)) * odds
