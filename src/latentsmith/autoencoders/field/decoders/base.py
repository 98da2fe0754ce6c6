"""What the decoders of fields share; they differ in how a query sees the tokens.

    tokens = linear(tokens, features(where they lie)), mixed among themselves     [B, K, W]
    c      = linear(mean of the tokens) + time(t)                                 [B, W]
    q      = linear(features(coordinate), x_t)                                    [B, M, W]
    q      = q + gate · reader(scale, shift of norm(q); tokens)    depth times: AdaLN by c
    q      = q + gate · mlp(scale, shift of norm(q))
    value  = linear(scale, shift of norm(q))

Where tokens carry planes, the decoder sees a field of level 0 and contrast 1 (`planes.measure`),
and its values are in units of the contrast and added to the planes' blend.

Three of four give a value at a coordinate that does not depend on the other queries: then the
result is a *function*, the same whatever grid it is asked on. ``joint``, the source's, is not one.

Gates start at 1 and the head at 0, not both at 0 as in AdaLN-zero: a query knows of the signal only
what it reads, so with closed gates the head learns nothing, and with a head of 0 the gates do not
open.

``x_t`` and t are there in decoders that denoise values (phase 2, and the RGB-flow baseline); the
tokens may then be the sparse input itself. Source: spec/4-field-autoencoder.md "Models".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.autoencoders.field.neighbours import Neighbours
from latentsmith.autoencoders.field.planes import (
    PlaneBlend,
    measure,
    plane_numbers,
    standardized,
)
from latentsmith.backbones.blocks.embedders import TimeEmbedder
from latentsmith.backbones.blocks.fourier import FourierFeatures
from latentsmith.backbones.blocks.mlp import mlp
from latentsmith.backbones.blocks.modulation import Modulation, gated, modulate
from latentsmith.backbones.blocks.norms import normalize
from latentsmith.backbones.blocks.weights import Linear
from latentsmith.backbones.mixers import MixerConfig, Points
from latentsmith.config.schema import schema
from latentsmith.registry import Registry

DECODERS = Registry("decoder", "latentsmith.autoencoders.field.decoders")


@dataclass
class Scene:
    """Where tokens and queries lie; layers share what they derive from it."""

    tokens: Points
    queries: Points
    spacing: float
    """Distance of the tokens, about."""
    _joined: Points | None = field(default=None, repr=False)
    _near: dict[int, Neighbours] = field(default_factory=dict, repr=False)

    @property
    def joined(self) -> Points:
        """The tokens' points, then the queries'."""
        if self._joined is None:
            self._joined = self.tokens.joined(self.queries)
        return self._joined

    def near(self, count: int) -> Neighbours:
        """The tokens nearest to each query."""
        if count not in self._near:
            self._near[count] = Neighbours.of(self.queries, self.tokens, count, self.spacing)
        return self._near[count]


class Reader(nn.Module):
    """How queries see tokens."""

    def forward(self, q: Tensor, tokens: Tensor, scene: Scene) -> Tensor:
        """q [B, M, W], tokens [B, K, W] → [B, M, W]."""
        raise TypeError(f"{type(self).__name__} has no forward()")


class DecoderBlock(nn.Module):
    """A reader (where there is one) and an MLP, each normalized, modulated, gated and added."""

    def __init__(self, width: int, mlp_ratio: float, reader: Reader | None):
        super().__init__()
        self.reader = reader
        self.mlp = mlp("gelu", width, mlp_ratio)
        self.modulation = Modulation(width, 3 if reader is None else 6)

    def forward(self, q: Tensor, tokens: Tensor, scene: Scene, c: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, M, W], tokens [B, K, W], activated condition [B, W] → both, further on."""
        vectors = self.modulation.vectors(c)
        if self.reader is not None:
            shift, scale, gate = vectors[3:]
            h = modulate(normalize(q, "layer"), shift, scale)
            q = gated(q, 1 + gate, self.reader(h, tokens, scene))
        shift, scale, gate = vectors[:3]
        h = modulate(normalize(q, "layer"), shift, scale)
        return gated(q, 1 + gate, self.mlp(h)), tokens


@schema
class DecoderConfig:
    """Base of all decoder configs. Subclasses add ``kind: Literal[...]`` and `block`."""

    kind: str
    depth: Annotated[int, Field(gt=0)] = 4
    """Blocks."""
    trunk: Annotated[int, Field(ge=0)] = 1
    """Blocks in which tokens see each other before queries see them."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 2.0
    """Hidden channels of the MLPs, as a multiple of the width."""
    exact: ClassVar[bool] = True
    """Whether a value depends on its own coordinate alone."""

    def block(self, shape: "DecoderShape", layer: int) -> nn.Module:
        """The ``layer``-th block: see `DecoderBlock.forward`."""
        raise TypeError(f"{type(self).__name__} has no block()")

    def build(self, shape: "DecoderShape") -> "FieldDecoder":
        """See `DecoderShape`."""
        return FieldDecoder(self, shape)


@dataclass(frozen=True)
class DecoderShape:
    """What a decoder is built for."""

    features: FourierFeatures
    """Of coordinates."""
    mixer: MixerConfig
    """How tokens see each other."""
    tokens: int
    """Numbers z of a token."""
    channels: int
    """Numbers C of a value."""
    width: int
    """W"""
    spacing: float
    """Distance of the tokens, about."""
    denoises: bool = False
    """Whether queries carry noisy values x_t and a time."""
    planes: bool = False
    """Whether the first numbers of a token are a plane; their blend is added."""
    bottleneck: int | None = None
    """Squeeze queries and tokens through so many channels after half of the blocks."""


class FieldDecoder(nn.Module):
    """See the module's text."""

    def __init__(self, config: DecoderConfig, shape: DecoderShape):
        super().__init__()
        from latentsmith.autoencoders.field.encoder import Block

        self.config, self.shape, self.features = config, shape, shape.features
        width, seen = shape.width, shape.features.width
        self.from_tokens = Linear(shape.tokens + seen, width)
        self.trunk = nn.ModuleList(
            Block(width, shape.mixer, k, config.mlp_ratio) for k in range(config.trunk)
        )
        self.condition = Linear(width, width)
        self.time = TimeEmbedder(width, scale=1000.0, shift=0.0) if shape.denoises else None
        self.from_query = Linear(seen + (shape.channels if shape.denoises else 0), width)
        self.blocks = nn.ModuleList(config.block(shape, k) for k in range(config.depth))
        self.squeeze: nn.ModuleList | None = None
        if shape.bottleneck is not None:
            self.squeeze = nn.ModuleList(
                [Linear(width, shape.bottleneck), Linear(shape.bottleneck, width)]
            )
        self.modulation = Modulation(width, 2)
        self.head = Linear(width, shape.channels)
        self.blend = PlaneBlend(shape.channels, shape.spacing) if shape.planes else None

    def context(self, tokens: Tensor, points: Points) -> Tensor:
        """Tokens [B, K, z] at points, seen by each other → [B, K, W]: once, however many queries
        and steps of a sampler follow."""
        dtype, channels = self.from_tokens.weight.dtype, self.shape.channels
        if self.blend is not None:
            tokens = standardized(tokens, channels, *measure(self._planes(tokens), channels))
        at = self.features(points.coordinates).to(dtype)
        x = torch.cat([tokens.to(dtype), at.expand(tokens.shape[0], -1, -1)], dim=-1)
        x = self.from_tokens(x)
        for block in self.trunk:
            x = block(x, points)
        return x

    def forward(
        self,
        context: Tensor,
        points: Points,
        queries: Points,
        *,
        noisy: Tensor | None = None,
        t: Tensor | None = None,
        raw: Tensor | None = None,
    ) -> Tensor:
        """Values [B, M, C] at the queries, float32.

        Args:
            context: [B, K, W] of `context`, at ``points``.
            raw: the tokens [B, K, z] themselves: where their planes are used.
            noisy: x_t [B, M, C], and ``t`` [B] in [0, 1]: in decoders that denoise.
        """
        q = self.from_query(self._told(queries, noisy, context.dtype))
        q = q.expand(context.shape[0], -1, -1)  # no len(): it would fix a traced batch
        c = F.silu(self._condition(context, points, t))
        scene = Scene(points, queries, self.shape.spacing)
        middle, tokens = len(self.blocks) // 2, context
        for k, block in enumerate(self.blocks):
            if self.squeeze is not None and k == middle:
                q, tokens = _through(self.squeeze, q), _through(self.squeeze, tokens)
            q, tokens = block(q, tokens, scene, c)
        shift, scale = self.modulation.vectors(c)
        values = self.head(modulate(normalize(q, "layer"), shift, scale)).float()
        if self.blend is None:
            return values
        assert raw is not None
        planes = self._planes(raw)
        _, contrast = measure(planes, self.shape.channels)
        return contrast * values + self.blend(queries, points, planes)

    def _planes(self, tokens: Tensor) -> Tensor:
        """The first numbers of tokens [B, K, z]."""
        return tokens[..., : plane_numbers(self.shape.channels, self.features.dims)]

    def _told(self, queries: Points, noisy: Tensor | None, dtype: torch.dtype) -> Tensor:
        parts = [self.features(queries.coordinates)]
        if self.shape.denoises:
            if noisy is None:
                raise ValueError("this decoder denoises: give noisy [B, M, C] and t [B]")
            parts = [parts[0].expand(noisy.shape[0], -1, -1), noisy]
        return torch.cat([part.to(dtype) for part in parts], dim=-1)

    def _condition(self, context: Tensor, points: Points, t: Tensor | None) -> Tensor:
        weights = points.weights()[..., None].to(context.dtype)
        c = self.condition((weights * normalize(context, "layer")).sum(1))
        if self.time is not None:
            if t is None:
                raise ValueError("this decoder denoises: give t [B]")
            c = c + self.time(t).to(c.dtype)
        return c


def _through(layers: Sequence[nn.Module] | nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x
