"""Networks that write a text from a latent, without diffusion: what `text_latent` is compared with.

    x = [ K tokens of the latent | tokens of the text ]
    x = x + attention(norm(x));  x = x + mlp(norm(x))        depth times
    logits = norm(x) Eᵀ + b                                  E: the token embedding

    autoregressive   causal; each position says the next token (vec2text's zero-step decoder,
                     Morris et al. 2023, arXiv 2310.06816)
    one_shot         all see all; L queries say all tokens at once, as if independent given the
                     latent (non-autoregressive inversion)

Both see the latent as a prefix of K tokens, as the MMDiT does, and turn queries and keys by their
place (RoPE).
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.mlp import MLP
from latentsmith.backbones.blocks.norms import HeadNorm, normalize
from latentsmith.backbones.blocks.positions import rope_1d, rotate
from latentsmith.backbones.blocks.text_latent import TokenEmbedding
from latentsmith.backbones.blocks.weights import Constant, Linear, draw
from latentsmith.config.schema import schema
from latentsmith.data.text.tokens.base import EOS_ID, PAD_ID, content, said
from latentsmith.errors import UserError

Order = Literal["autoregressive", "one_shot"]
Past = list[tuple[Tensor, Tensor]]
"""Keys and values [B, heads, n, head] of each block."""


@schema
class TextInverterConfig:
    """A transformer from a latent to a text."""

    order: Order = "autoregressive"
    """autoregressive: token after token; one_shot: all at once."""
    width: Annotated[int, Field(gt=0)] = 96
    """Channels of a token: a multiple of 2 x heads."""
    depth: Annotated[int, Field(gt=0)] = 6
    """Number of blocks."""
    heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads."""
    latent_tokens: Annotated[int, Field(gt=0)] = 4
    """Tokens made of each vector of a latent."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden channels of the MLPs, in widths."""
    init_seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 2 x heads = {2 * self.heads}: each head "
                "turns pairs of channels"
            )

    def build(self, vocabulary: int, length: int, latent_shape: tuple[int, ...]) -> "TextInverter":
        """A fresh network, float32; arguments as `TextInverter`'s."""
        return TextInverter(self, vocabulary, length, latent_shape)

    def matched(
        self, parameters: int, vocabulary: int, length: int, latent_shape: tuple[int, ...]
    ) -> "TextInverterConfig":
        """These settings with the depth whose parameters come nearest to ``parameters``: a decoder
        of equal size, for a fair table. At least one block."""

        def count(depth: int) -> int:
            with torch.device("meta"):
                made = replace(self, depth=depth).build(vocabulary, length, latent_shape)
            return sum(p.numel() for p in made.parameters())

        one, two = count(1), count(2)
        return replace(self, depth=max(1, 1 + round((parameters - one) / (two - one))))


class _Block(nn.Module):
    """Attention and MLP, each of normalized tokens, each added."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)
        self.q_norm, self.k_norm = (HeadNorm(width // heads, "rms") for _ in range(2))
        self.mlp = MLP(width, round(mlp_ratio * width))

    def forward(
        self, x: Tensor, rope: Tensor, causal: bool, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, n, W], rope [2, n, head] of their places, keys and values of the tokens before →
        (x, keys and values of all)."""
        q, k, v = self.qkv(normalize(x, "rms")).unflatten(2, (3, self.heads, -1)).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope)
        if past is not None:  # one more token, which sees all before it
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal and past is None)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(normalize(x, "rms")), (k, v)


class TextInverter(nn.Module):
    """See the module's text.

    Args:
        config: its settings.
        vocabulary: V, token ids; the last is MASK (`latentsmith.data.text.tokens`).
        length: L, positions of a text.
        latent_shape: (D,) or (K0, D).

    Raises:
        UserError: a latent of another number of dimensions.
    """

    def __init__(
        self,
        config: TextInverterConfig,
        vocabulary: int,
        length: int,
        latent_shape: tuple[int, ...],
    ):
        super().__init__()
        if len(latent_shape) not in (1, 2):
            raise UserError(
                f"latents of shape {list(latent_shape)}: one of [D] or [K0, D] is needed"
            )
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.latent_shape = tuple(latent_shape)
        self.causal = config.order == "autoregressive"
        vectors = latent_shape[0] if len(latent_shape) == 2 else 1
        self.prefix = vectors * config.latent_tokens
        self.latent_in = Linear(latent_shape[-1], config.latent_tokens * config.width)
        self.embedding = TokenEmbedding(vocabulary, config.width)
        self.query = None if self.causal else nn.Parameter(torch.empty(1, config.width))
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.out_norm = HeadNorm(config.width, "rms")
        self.bias = nn.Parameter(torch.empty(vocabulary))
        head = config.width // config.heads
        self.rope = Constant(partial(rope_1d, head, self.prefix + length))
        draw(self, config.init_seed, self._spread)

    def _spread(self, name: str) -> float | None:
        """Embedding rows of unit length; branches that start small."""
        if name.startswith(("embedding", "query")):
            return self.config.width**-0.5
        last = name.endswith(("proj.weight", "fc2.weight"))
        return 0.02 / (2 * self.config.depth) ** 0.5 if last else None

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Tokens int64 [B, L] (looked at by ``autoregressive`` only), latents [B, *latent_shape] →
        logits [B, L, V]: of each token, given the latent and, autoregressively, those before."""
        x = self._prefix(latents)
        if self.query is None:
            x = torch.cat([x, self.embedding(tokens[:, :-1])], 1)
            return self._logits(self._run(x, 0, None)[0][:, self.prefix - 1 :])
        asked = self.query.expand(len(x), self.length, -1) * self.config.width**0.5
        return self._logits(self._run(torch.cat([x, asked], 1), 0, None)[0][:, self.prefix :])

    def _prefix(self, latents: Tensor) -> Tensor:
        """[B, *latent_shape] → [B, prefix, W]."""
        if tuple(latents.shape[1:]) != self.latent_shape:
            raise UserError(
                f"latents of shape {list(latents.shape[1:])} given to an inverter for "
                f"{list(self.latent_shape)}"
            )
        x = self.latent_in(latents).unflatten(-1, (self.config.latent_tokens, -1))
        return x.reshape(len(x), self.prefix, -1)

    def _run(self, x: Tensor, start: int, past: Past | None) -> tuple[Tensor, Past]:
        """x [B, n, W] at places ``start`` … through all blocks."""
        rope = self.rope()[:, start : start + x.shape[1]]
        now: Past = []
        for i, block in enumerate(self.blocks):
            x, kept = block(x, rope, self.causal, None if past is None else past[i])
            now.append(kept)
        return x, now

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.out_norm(x), self.embedding.weight, self.bias)

    def nll(self, tokens: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(nats of each token [B, L], which of them count bool [B, L]: content and the first EOS).
        Autoregressively their sum is the text's exact likelihood."""
        nats = F.cross_entropy(self(tokens, latents).transpose(1, 2), tokens, reduction="none")
        return nats, said(tokens)

    @torch.no_grad()
    def generate(
        self, latents: Tensor, *, rng: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Latents [B, *latent_shape] → token rows int64 [B, L], EOS after the first EOS.

        Args:
            rng: draws tokens at ``temperature``; None: always the most likely one.
        """
        if not self.causal:
            blank = latents.new_zeros(len(latents), self.length, dtype=torch.int64)
            return ended(self._choose(self(blank, latents), rng, temperature))
        x, past = self._run(self._prefix(latents), 0, None)
        out = torch.full((len(x), self.length), EOS_ID, device=x.device)
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for place in range(self.length):
            token = self._choose(self._logits(x[:, -1:]), rng, temperature)[:, 0]
            out[:, place] = torch.where(done, EOS_ID, token)
            done |= token == EOS_ID
            if bool(done.all()) or place == self.length - 1:
                break
            x, past = self._run(self.embedding(out[:, place, None]), self.prefix + place, past)
        return out

    @staticmethod
    def _choose(logits: Tensor, rng: torch.Generator | None, temperature: float) -> Tensor:
        """logits [B, n, V] → tokens [B, n], neither PAD nor MASK; drawn by Gumbel's maximum in
        float64."""
        logits = logits.clone()
        logits[..., [PAD_ID, -1]] = -torch.inf
        if rng is None:
            return logits.argmax(-1)
        u = torch.rand(logits.shape, generator=rng, dtype=torch.float64, device=rng.device)
        noise = -(-u.clamp_min(1e-300).log()).log()
        return (logits.double() / temperature + noise.to(logits.device)).argmax(-1)


def ended(tokens: Tensor) -> Tensor:
    """Tokens [B, L] with EOS everywhere after the content."""
    return torch.where(content(tokens), tokens, EOS_ID)
