"""``MMDiT`` over text and a latent: which of the two is made from which is told by two times.

    tokens [B, L], latent [B, D] or [B, K0, D], t_text [B], t_lat [B]
        → logits of tokens [M, V], of M positions asked for;  the latent's prediction, its shape

Text is a stream of L tokens with rotary and learned places: rotary ones alone tell tokens apart by
how far they are from each other, and a text that is all masked must ask the latent, which has no
places, for its first word and its last. A latent is a stream of K tokens (each of its K0
vectors through one linear map to K of width W): one token alone would be a bottleneck. Blocks are
`latentsmith.backbones.blocks.joint`; no stream is dropped before the end, since both are read.

Times are per sample *and* per modality, as UniDiffuser's (Bao et al. 2023, arXiv 2303.06555): at
t = 0 a modality is given, at t = 1 it is absent. (t_text, t_lat) is the mode; there is no other.
Both streams see both times, as sines of 1000 t: of t in [0, 1] nearly all of them are constant.

The head is tied to the token embedding and computed at asked positions only: a vocabulary is wide,
and most positions of most samples are not scored.

Not in the registry of backbones: those denoise maps [B, C, H, W] and answer with one.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.backbones.blocks.joint import JointBlock, Stream
from latentsmith.backbones.blocks.positions import rope_1d
from latentsmith.backbones.blocks.text_latent import LatentHead, TextHead, TokenEmbedding, TwoTimes
from latentsmith.backbones.blocks.weights import Constant, Linear, draw
from latentsmith.backbones.linear_path import BagToLatent, LatentToTokens
from latentsmith.config.schema import schema
from latentsmith.errors import UserError

Size = Literal["smoke", "tiny", "small", "base"]
Share = Literal["full", "streams", "none"]
Outputs = Literal["both", "text", "latent"]
Side = Literal["text", "latent", "both"]

#  size         width depth heads latent tokens
SIZES: dict[Size, tuple[int, int, int, int]] = {
    "smoke": ( 32,    2,    2,    4),
    "tiny":  ( 96,    3,    4,    4),
    "small": (256,    6,    4,    8),
    "base":  (512,   12,    8,   16),
}  # fmt: skip


@dataclass
class MMDiTOutput:
    """``logits`` [M, V] of the asked positions, None when none were asked for; ``latent``, of the
    given latent's shape and in the network's own parametrization, None when not wanted."""

    logits: Tensor | None
    latent: Tensor | None


@schema
class MMDiTConfig:
    """A transformer over text and a latent. ``size`` gives width, depth, heads and latent tokens;
    each can be set apart from it."""

    size: Size = "tiny"
    """smoke, tiny (about 1 M parameters), small or base."""
    width: Annotated[int, Field(gt=0)] | None = None
    """Channels of a token, instead of the size's: a multiple of 2 x heads."""
    depth: Annotated[int, Field(gt=0)] | None = None
    """Number of blocks, instead of the size's."""
    heads: Annotated[int, Field(gt=0)] | None = None
    """Attention heads, instead of the size's."""
    latent_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens made of each vector of a latent, instead of the size's. 1 for latents that are
    sequences already."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden channels of the MLPs, in widths."""
    qk_norm: bool = True
    """RMS norm of each head's queries and keys, with a learned scale."""
    linear: bool = False
    """Also linear paths from the latent to tokens and back, past the blocks (see
    `latentsmith.backbones.linear_path`): for vocabularies and latents that are wide beside the
    network."""
    share: Share = "streams"
    """What text and latent share: full (both streams use the same blocks), streams (attention
    alone: MMDiT), none (two networks, one for each output: twice the size, and what one learns
    leaves the other as it is)."""
    init_seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        width, _, heads, _ = self.shape()
        if width % (2 * heads):
            raise ValueError(
                f"width {width} must be a multiple of 2 x heads ({heads} heads), such as "
                f"{2 * heads * max(1, round(width / heads / 2))}: each head turns pairs of channels"
            )

    def shape(self) -> tuple[int, int, int, int]:
        """(width, depth, heads, latent tokens) after ``size`` and what overrides it."""
        width, depth, heads, tokens = SIZES[self.size]
        return (
            self.width or width,
            self.depth or depth,
            self.heads or heads,
            self.latent_tokens or tokens,
        )

    def build(self, vocabulary: int, length: int, latent_shape: tuple[int, ...]) -> "TextLatentNet":
        """A fresh network, float32.

        Args:
            vocabulary: V, number of token ids, the mask's among them.
            length: L, the longest text in tokens.
            latent_shape: (D,), or (K0, D) for latents that are sequences.

        Raises:
            UserError: a latent of another number of dimensions.
        """
        if len(latent_shape) not in (1, 2):
            raise UserError(
                f"latents of shape {list(latent_shape)}: a text's latent is a vector [D] or a "
                "sequence of vectors [K0, D]"
            )
        if self.share == "none":
            return MMDiTPair(self, vocabulary, length, latent_shape)
        return MMDiT(self, vocabulary, length, latent_shape)


class TextLatentNet(nn.Module):
    """What networks over text and a latent promise.

    Attributes:
        config: the settings it was built from.
        vocabulary: V.
        length: L, the longest text.
        latent_shape: (D,) or (K0, D).
    """

    config: MMDiTConfig
    vocabulary: int
    length: int
    latent_shape: tuple[int, ...]

    def forward(
        self,
        tokens: Tensor,
        latents: Tensor,
        t_text: Tensor,
        t_lat: Tensor,
        *,
        positions: Tensor | None = None,
        latent: bool = True,
        seen: Tensor | None = None,
    ) -> MMDiTOutput:
        """One look at B texts and latents.

        Args:
            tokens: ids int64 [B, L], or weights of all ids [B, L, V] (relaxed tokens).
            latents: noisy [B, *latent_shape].
            t_text, t_lat: times [B] in [0, 1]: 0 given, 1 absent.
            positions: where logits are wanted, int64 [M], counted over the flat [B L]; None: none.
            latent: whether the latent's prediction is wanted.
            seen: bool [B, L], tokens that are there (texts of known length); None: all.
        """
        raise TypeError(f"{type(self).__name__} has no forward()")

    def side(self, name: str) -> Side:
        """Whose parameter ``name`` is: the text's, the latent's, or both's."""
        raise TypeError(f"{type(self).__name__} has no side()")

    def linear_paths(self) -> tuple[BagToLatent, LatentToTokens]:
        """Text → latent and latent → text past the blocks, of networks with ``linear``."""
        raise TypeError(f"{type(self).__name__} has no linear_paths()")


class MMDiT(TextLatentNet):
    """One network for both outputs, or for one of them.

    Args:
        config: its settings.
        vocabulary, length, latent_shape: see `MMDiTConfig.build`.
        outputs: what it is asked for; what only the other output needs is left out.
        init_seed: instead of the settings'.
    """

    def __init__(
        self,
        config: MMDiTConfig,
        vocabulary: int,
        length: int,
        latent_shape: tuple[int, ...],
        *,
        outputs: Outputs = "both",
        init_seed: int | None = None,
    ):
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.latent_shape, self.outputs = latent_shape, outputs
        width, depth, heads, tokens = config.shape()
        dimension, count = latent_shape[-1], math.prod(latent_shape[:-1])
        self.embedding = TokenEmbedding(vocabulary, width)
        self.text_places = nn.Parameter(torch.empty(length, width))
        self.latent_in = Linear(dimension, tokens * width)
        self.places = nn.Parameter(torch.empty(count * tokens, width)) if count > 1 else None
        self.text_time, self.latent_time = TwoTimes(width), TwoTimes(width)
        self.rope = Constant(partial(rope_1d, width // heads, length))
        self.blocks = nn.ModuleList(self._block(n == depth - 1) for n in range(depth))
        self.text_head = TextHead(vocabulary, width) if outputs != "latent" else None
        self.latent_head = LatentHead(width, tokens, dimension) if outputs != "text" else None
        wide = vocabulary, count * dimension, width
        self.text_odds = LatentToTokens(*wide) if config.linear and outputs != "latent" else None
        self.latent_bag = BagToLatent(*wide) if config.linear and outputs != "text" else None
        draw(self, config.init_seed if init_seed is None else init_seed, self._spread)

    def _block(self, last: bool) -> JointBlock:
        width, _, heads, _ = self.config.shape()
        hidden, norm = round(self.config.mlp_ratio * width), self.config.qk_norm

        def stream(other: Outputs) -> Stream:
            context = last and self.outputs == other
            return Stream(width, heads, hidden, qk_norm=norm, context_only=context)

        text = stream("latent")
        return JointBlock(text, text if self.config.share == "full" else stream("text"))

    def _spread(self, name: str) -> float | None:
        """Every block starts as the identity and both outputs at 0: uniform over all tokens, and
        the latents' mean."""
        if "modulation" in name or name in ("text_head.dense.weight", "latent_head.linear.weight"):
            return 0.0
        if name.startswith(("text_odds.", "latent_bag.")):
            return 0.0
        if name == "text_places":
            return 1.0  # as large as a token's embedding on its way in
        if name in ("embedding.weight", "places"):
            return self.config.shape()[0] ** -0.5
        return 0.02 if "_time." in name else None

    def forward(
        self,
        tokens: Tensor,
        latents: Tensor,
        t_text: Tensor,
        t_lat: Tensor,
        *,
        positions: Tensor | None = None,
        latent: bool = True,
        seen: Tensor | None = None,
    ) -> MMDiTOutput:
        """See `TextLatentNet.forward`. Raises UserError for shapes it was not built for."""
        self._check(tokens, latents, positions, latent)
        text, x = self.embedding(tokens), self._tokens(latents)
        text = text + self.text_places[: text.shape[1]]
        c_text, c_lat = self.text_time(t_text, t_lat), self.latent_time(t_text, t_lat)
        rope = self.rope()[:, : text.shape[1]]
        keys = None
        if seen is not None:
            keys = F.pad(seen, (0, x.shape[1]), value=True)[:, None, None]
        read = (positions is not None, latent)
        for number, block in enumerate(self.blocks, start=1):
            wanted = read if number == len(self.blocks) else (True, True)
            text, x = block(text, x, c_text, c_lat, rope, keys, wanted)
        logits = predicted = None
        if positions is not None and self.text_head is not None:
            logits = self.text_head(text, c_text, positions, self.embedding.weight)
            if self.text_odds is not None:
                odds = self.text_odds(latents.flatten(1), t_lat, c_text)
                logits = logits + odds[positions // tokens.shape[1]]
        if latent and self.latent_head is not None:
            predicted = self.latent_head(x, c_lat).view(latents.shape)
            if self.latent_bag is not None:
                bag = self.latent_bag(tokens, t_text, c_lat, seen)
                predicted = predicted + bag.view(latents.shape)
        return MMDiTOutput(logits, predicted)

    def _tokens(self, latents: Tensor) -> Tensor:
        """[B, *latent_shape] → [B, K0 K, W]."""
        x = latents.to(self.latent_in.weight.dtype).view(len(latents), -1, self.latent_shape[-1])
        x = self.latent_in(x).unflatten(2, (-1, self.config.shape()[0])).flatten(1, 2)
        return x if self.places is None else x + self.places

    def _check(
        self, tokens: Tensor, latents: Tensor, positions: Tensor | None, latent: bool
    ) -> None:
        if tuple(latents.shape[1:]) != self.latent_shape or len(latents) != len(tokens):
            raise UserError(
                f"latents of shape {list(latents.shape)} and {len(tokens)} texts given to a "
                f"network for [B, {', '.join(map(str, self.latent_shape))}]"
            )
        if tokens.shape[1] > self.length:
            raise UserError(
                f"texts of {tokens.shape[1]} tokens given to a network for at most {self.length}"
            )
        if positions is None and not latent:
            raise ValueError("nothing is asked for: give positions, or latent=True")

    def linear_paths(self) -> tuple[BagToLatent, LatentToTokens]:
        """See `TextLatentNet.linear_paths`."""
        assert self.latent_bag is not None and self.text_odds is not None
        return self.latent_bag, self.text_odds

    def side(self, name: str) -> Side:
        """See `TextLatentNet.side`."""
        if name.startswith("blocks."):
            if self.config.share == "full":
                return "both"
            return "text" if name.split(".")[3] == "0" else "latent"
        latent = name.startswith(("latent_", "places"))
        return "latent" if latent else "text"


class MMDiTPair(TextLatentNet):
    """Two networks behind one face: ``text_net`` for the text, ``latent_net`` for the latent."""

    def __init__(
        self, config: MMDiTConfig, vocabulary: int, length: int, latent_shape: tuple[int, ...]
    ):
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.latent_shape, seed = latent_shape, config.init_seed
        self.text_net = MMDiT(
            config, vocabulary, length, latent_shape, outputs="text", init_seed=seed
        )
        self.latent_net = MMDiT(
            config, vocabulary, length, latent_shape, outputs="latent", init_seed=seed + 1
        )

    def forward(
        self,
        tokens: Tensor,
        latents: Tensor,
        t_text: Tensor,
        t_lat: Tensor,
        *,
        positions: Tensor | None = None,
        latent: bool = True,
        seen: Tensor | None = None,
    ) -> MMDiTOutput:
        """See `TextLatentNet.forward`; only the networks that are asked run."""
        given, logits, predicted = (tokens, latents, t_text, t_lat), None, None
        if positions is not None:
            logits = self.text_net(*given, positions=positions, latent=False, seen=seen).logits
        if latent:
            predicted = self.latent_net(*given, seen=seen).latent
        return MMDiTOutput(logits, predicted)

    def linear_paths(self) -> tuple[BagToLatent, LatentToTokens]:
        """See `TextLatentNet.linear_paths`."""
        assert self.latent_net.latent_bag is not None and self.text_net.text_odds is not None
        return self.latent_net.latent_bag, self.text_net.text_odds

    def side(self, name: str) -> Side:
        """See `TextLatentNet.side`."""
        return "text" if name.startswith("text_net.") else "latent"
