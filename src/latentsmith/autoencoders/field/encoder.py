"""From scattered points to latent tokens.

    token = linear(features(c), value, log density)       [B, N, W]
    x = x + mixer(norm(x));  x = x + mlp(norm(x))          depth times
    x = anchors look at x, near ones more                  [B, K, W]
    x = x + conv(gelu(conv(x))) over the anchors' grid     ``convolutions`` times
    latents = linear(x)                                    [B, K, z]

With ``planes`` the first numbers of a token are a plane off the kriged surface and what the network
corrects of it. The network sees values of level 0 and contrast 1, what the planes leave over at
each point, and the planes; it answers in units of the contrast (`planes.measure`), and starts by
correcting nothing.

What a point says counts by the share of the domain it stands for (its quadrature weight), so that
the latents depend on the signal and not on where samples happen to fall together. With one token
the anchor is the whole domain: a weighted mean beside an attention pool, DiffAE's semantic vector.

Source: spec/4-field-autoencoder.md "Models".
"""

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.field.convolutions import TokenGrid
from latentsmith.autoencoders.field.features import Nearness
from latentsmith.autoencoders.field.neighbours import Gather, Neighbours
from latentsmith.autoencoders.field.planes import (
    Kriging,
    PlaneBlend,
    measure,
    plane_numbers,
    standardized,
)
from latentsmith.backbones.blocks.attention import CrossAttention
from latentsmith.backbones.blocks.fourier import FourierFeatures
from latentsmith.backbones.blocks.mlp import mlp
from latentsmith.backbones.blocks.norms import normalize
from latentsmith.backbones.blocks.weights import Linear
from latentsmith.backbones.mixers import Mixer, MixerConfig, Points

NEAREST = 8
"""Points that a token hears from by their offsets, besides attending to all."""


class Block(nn.Module):
    """Mixer and MLP, each normalized and added."""

    def __init__(self, width: int, mixer: MixerConfig, layer: int, mlp_ratio: float):
        super().__init__()
        self.mixer: Mixer = mixer.build(width, layer)
        self.mlp = mlp("gelu", width, mlp_ratio)

    def forward(self, x: Tensor, points: Points) -> Tensor:
        """Tokens [B, L, W] at L points → the same shape."""
        x = x + self.mixer(normalize(x, "layer"), points)
        return x + self.mlp(normalize(x, "layer"))


class Pool(nn.Module):
    """Tokens at points → tokens at anchors, by attention that falls with distance and counts each
    point by its quadrature weight."""

    def __init__(
        self, width: int, heads: int, anchors: int, spacing: float, mlp_ratio: float, dims: int
    ):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(anchors, width))
        self.attn = CrossAttention(width, heads, qk_norm=True, norm="rms")
        self.near = Nearness(heads, spacing) if anchors > 1 else None
        self.gather = Gather(width, width, dims) if anchors > 1 else None
        self.spacing = spacing
        self.mean = Linear(width, width) if anchors == 1 else None
        self.mlp = mlp("gelu", width, mlp_ratio)

    def forward(self, x: Tensor, points: Points, at: Tensor, anchors: Points) -> Tensor:
        """x [B, N, W] at points, features ``at`` [K, W] of the anchors → [B, K, W]."""
        weights = points.weights()
        bias = weights.clamp_min(1e-9).log()[:, None, None]  # [B, 1, 1, N]
        if self.near is not None:
            bias = bias + self.near(anchors, points)
        x = normalize(x, "layer")
        q = (self.queries + at).expand(len(x), -1, -1)
        pooled = q + self.attn(normalize(q, "layer"), x, bias=bias)
        if self.gather is not None:
            around = Neighbours.of(anchors, points, NEAREST, self.spacing)
            pooled = pooled + self.gather(normalize(pooled, "layer"), x, around)
        if self.mean is not None:
            pooled = pooled + self.mean((weights[..., None] * x).sum(1, keepdim=True))
        return pooled + self.mlp(normalize(pooled, "layer"))


class Planes(nn.Module):
    """A token's plane: read off the kriged surface, told to the network, corrected by it.

    Args:
        channels: numbers C of a value.
        dims: of a coordinate.
        width: channels W of the network.
        spacing: distance of the tokens.
    """

    def __init__(self, channels: int, dims: int, width: int, spacing: float):
        super().__init__()
        self.channels, numbers = channels, plane_numbers(channels, dims)
        self.kriging = Kriging(spacing)
        self.blend = PlaneBlend(channels, spacing)
        self.told = Linear(numbers, width)
        self.correct = Linear(width, numbers)


class FieldEncoder(nn.Module):
    """See the module's text.

    Args:
        features: of coordinates.
        channels: numbers C of a value.
        latent: numbers z of a token.
        planes: whether the first of them are a plane off the kriged surface.
        side: tokens along each dimension.
        convolutions: blocks of them, over the tokens.
    """

    def __init__(
        self,
        features: FourierFeatures,
        mixer: MixerConfig,
        *,
        channels: int,
        latent: int,
        planes: bool,
        side: int,
        convolutions: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
    ):
        super().__init__()
        dims, spacing = features.dims, 2 / side
        self.features = features
        self.into = Linear(features.width + (2 if planes else 1) * channels + 1, width)
        self.blocks = nn.ModuleList(Block(width, mixer, k, mlp_ratio) for k in range(depth))
        self.at = Linear(features.width, width)
        self.pool = Pool(width, heads, side**dims, spacing, mlp_ratio, dims)
        deep = convolutions if side > 1 else 0
        self.grid = TokenGrid(width, deep, side, dims) if deep else None
        self.planes = Planes(channels, dims, width, spacing) if planes else None
        self.out = Linear(width, latent - (plane_numbers(channels, dims) if planes else 0))

    def forward(self, points: Points, values: Tensor, anchors: Points) -> Tensor:
        """Values [B, N, C] at points, anchors [B, K, d] → raw latent tokens [B, K, z]."""
        if self.planes is None:
            x = self._among(self._heard(points, values, anchors))
            return self.out(normalize(x, "layer"))
        planes = self.planes.kriging(anchors, points, values)  # [B, K, C (1 + d)]
        level, contrast = measure(planes, self.planes.channels)
        left = values - self.planes.blend(points, anchors, planes)
        x = self._heard(points, torch.cat([values - level, left], dim=-1) / contrast, anchors)
        told = standardized(planes, self.planes.channels, level, contrast)
        x = self._among(x + self.planes.told(told.to(x.dtype)))
        planes = planes + contrast * self.planes.correct(x).float()
        free = contrast * self.out(normalize(x, "layer")).float()
        return torch.cat([planes, free], dim=-1)

    def _heard(self, points: Points, values: Tensor, anchors: Points) -> Tensor:
        """What the points say, as heard at the anchors: [B, K, W]."""
        count, dtype = values.shape[1], self.into.weight.dtype
        density = (count * points.weights()).clamp_min(1e-6).log()  # 0 where points lie evenly
        told = [self.features(points.coordinates), values, density[..., None]]
        x = self.into(torch.cat([t.to(dtype).expand(len(values), -1, -1) for t in told], dim=-1))
        for block in self.blocks:
            x = block(x, points)
        at = self.at(self.features(anchors.coordinates[0]).to(dtype))
        return normalize(self.pool(x, points, at, anchors), "layer")

    def _among(self, x: Tensor) -> Tensor:
        """Tokens [B, K, W] that have heard from their neighbours."""
        return x if self.grid is None else self.grid(x)
