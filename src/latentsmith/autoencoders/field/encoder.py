"""From scattered points to latent tokens.

    token = linear(features(c), value, log density)       [B, N, W]
    x = x + mixer(norm(x));  x = x + mlp(norm(x))          depth times
    latents = anchors look at x, near ones more           [B, K, z]
    (with ``planes``: the first numbers of a token are a plane off the kriged surface, and
    ``value`` in the first line is joined by what the planes leave over at that point)

What a point says counts by the share of the domain it stands for (its quadrature weight), so that
the latents depend on the signal and not on where samples happen to fall together. With one token
the anchor is the whole domain: a weighted mean beside an attention pool, DiffAE's semantic vector.

Source: spec/4-field-autoencoder.md "Models".
"""

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.field.features import Nearness
from latentsmith.autoencoders.field.neighbours import Gather, Neighbours
from latentsmith.autoencoders.field.planes import Kriging, PlaneBlend, plane_numbers
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


class FieldEncoder(nn.Module):
    """See the module's text.

    Args:
        features: of coordinates.
        channels: numbers C of a value.
        latent: numbers z of a token.
        planes: whether the first of them are a plane off the kriged surface.
        anchors: coordinates [K, d] of the tokens.
        spacing: distance of the anchors.
    """

    def __init__(
        self,
        features: FourierFeatures,
        mixer: MixerConfig,
        *,
        channels: int,
        latent: int,
        planes: bool,
        anchors: int,
        spacing: float,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
    ):
        super().__init__()
        self.features = features
        self.into = Linear(features.width + (2 if planes else 1) * channels + 1, width)
        self.blocks = nn.ModuleList(Block(width, mixer, k, mlp_ratio) for k in range(depth))
        self.at = Linear(features.width, width)
        self.pool = Pool(width, heads, anchors, spacing, mlp_ratio, features.dims)
        self.kriging = Kriging(spacing) if planes else None
        self.blend = PlaneBlend(channels, spacing) if planes else None
        known = plane_numbers(channels, features.dims) if planes else 0
        self.out = Linear(width, latent - known)

    def forward(self, points: Points, values: Tensor, anchors: Points) -> Tensor:
        """Values [B, N, C] at points, anchors [B, K, d] → raw latent tokens [B, K, z]."""
        count = values.shape[1]
        density = (count * points.weights()).clamp_min(1e-6).log()  # 0 where points lie evenly
        told = [self.features(points.coordinates), values, density[..., None]]
        planes = None
        if self.kriging is not None and self.blend is not None:
            planes = self.kriging(anchors, points, values)
            told.append(values - self.blend(points, anchors, planes))
        dtype = self.into.weight.dtype
        told = [part.to(dtype).expand(len(values), -1, -1) for part in told]
        x = self.into(torch.cat(told, dim=-1))
        for block in self.blocks:
            x = block(x, points)
        at = self.at(self.features(anchors.coordinates[0]).to(dtype))
        tokens = self.out(normalize(self.pool(x, points, at, anchors), "layer"))
        return tokens if planes is None else torch.cat([planes.to(tokens.dtype), tokens], dim=-1)
