"""What lies around a point, as seen from it: offsets instead of positions.

A network that is told where things are in the domain must learn at every place anew what it could
learn once: what lies a little to the left. Here each point hears from its nearest others, with the
offset to each in units of the spacing, so that what is learned holds everywhere (as LIIF, Chen et
al. 2021, arXiv 2012.09161, decodes, and PointNet++, Qi et al. 2017, arXiv 1706.02413, gathers).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.autoencoders.field.features import squared_distances
from latentsmith.backbones.blocks.weights import Linear
from latentsmith.backbones.mixers.points import Points


@dataclass(frozen=True)
class Neighbours:
    """The nearest k of N others for each of M points.

    Attributes:
        index: int64 [B, M, k].
        offsets: [B, M, k, d], from the point to the other, in units of the spacing.
        weights: [B, M, k], summing to 1, falling smoothly to 0 at the (k + 1)-th: a point that
            comes or goes at the edge changes nothing abruptly.
    """

    index: Tensor
    offsets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, at: Points, others: Points, count: int, spacing: float) -> "Neighbours":
        """``count`` nearest, or one less than there are."""
        a, b = at.coordinates, others.coordinates
        count = min(count, b.shape[1] - 1)
        near, index = squared_distances(a, b).topk(count + 1, dim=-1, largest=False)
        near = near.sqrt()
        weights = (near[..., -1:] - near[..., :-1]).clamp_min(1e-6)
        index = index[..., :-1]
        where = b.expand(index.shape[0], -1, -1).gather(
            1, index.flatten(1)[..., None].expand(-1, -1, b.shape[2])
        )
        offsets = (where.unflatten(1, index.shape[1:]) - a[:, :, None]) / spacing
        return cls(index, offsets, weights / weights.sum(-1, keepdim=True))

    def take(self, values: Tensor) -> Tensor:
        """Values [B, N, W] of the others → [B, M, k, W]."""
        index = self.index.expand(values.shape[0], -1, -1)
        rows = index.flatten(1)[..., None].expand(-1, -1, values.shape[2])
        return values.gather(1, rows).unflatten(1, index.shape[1:])


class Gather(nn.Module):
    """Σ weight · MLP(what the point is, what the other is, the offset): [B, M, W] from [B, N, V].

    Args:
        width: W.
        others: V.
        dims: of the offsets.
    """

    def __init__(self, width: int, others: int, dims: int):
        super().__init__()
        self.own = Linear(width, width)
        self.other = Linear(others, width)
        self.offset = Linear(2 * dims, width)
        self.mix = Linear(width, width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, others: Tensor, near: Neighbours) -> Tensor:
        """x [B, M, W], others [B, N, V] → [B, M, W]."""
        told = torch.cat([near.offsets, near.offsets.square()], dim=-1).to(x.dtype)
        h = near.take(self.other(others)) + self.offset(told) + self.own(x)[:, :, None]
        h = F.gelu(self.mix(F.gelu(h, approximate="tanh")), approximate="tanh")
        return self.out((near.weights[..., None].to(h.dtype) * h).sum(2))
