"""Euclidean distances between all pairs of a batch, exact where it matters, at the cost of two
matrix products (one forward, one backward).

    d_ij² = n_i + n_j − 2 G_ij,  G = x xᵀ of centred x,  n = diag G
    ∂L/∂x = (diag(W 1) − W) x,   W_ij = (∂L/∂d_ij + ∂L/∂d_ji) / d_ij,  0 where d_ij = 0

Points whose distance is small beside their norms lose all digits in the first formula (relative
error about u (n_i + n_j) / d², u the unit roundoff) and most in the second. Both are replaced
there by the plain difference x_i − x_j. Written by hand because autograd through a square root
gives NaN on the diagonal, and because `torch.cdist` neither centres nor mends near pairs and is
slower.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NEAR = 1e-4
"""d² below this share of n_i + n_j is recomputed from x_i − x_j."""
BLOCK = 256
"""Rows of a Gram block on CPU; only blocks on and above the diagonal are multiplied."""
CHUNK = 2**22
"""Numbers held at once in loops over chunks (16 MiB in float32)."""


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on the device of ``x``: a bf16 Gram is wrong by 100 % for near pairs."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision ``x`` as float32; float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def pairwise_distances(x: Tensor) -> Tensor:
    """Euclidean distances of all pairs, averaged over S sets of vectors.

    Args:
        x: [B, D], or [S, B, D]: sample i is S vectors and d_ij the mean over S of their distances.

    Returns:
        [B, B], symmetric, zero diagonal; float32, or float64 for float64 input; autocast is
        ignored. Differentiable once. Coincident points have distance 0 and zero subgradient.
    """
    x = at_least_float32(x)
    return _PairwiseDistances.apply(x if x.ndim == 3 else x[None])[0]  # type: ignore[index]


def pairs(d: Tensor) -> Tensor:
    """The P = B(B-1)/2 entries above the diagonal of d [B, B], as float64 [P]."""
    return d.masked_select(torch.ones_like(d, dtype=torch.bool).triu(1)).double()


class _PairwiseDistances(torch.autograd.Function):
    """points [S, B, D] → d [1, B, B]."""

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        with full_precision(points):
            if len(points) == 1:
                x = _centred(points)
                d, near = _distances(points, x)
                ctx.save_for_backward(points, x, d, near)
            else:  # S matrices would fill the memory: their mean is kept, backward makes them anew
                d = points.new_zeros(1, points.shape[1], points.shape[1])
                for part in points.split(_sets(points)):
                    d += _distances(part, _centred(part))[0].sum(0, keepdim=True)
                d /= len(points)
                ctx.save_for_backward(points)
        return d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        points, *kept = ctx.saved_tensors
        with full_precision(points):
            grad = (grads[0] + grads[0].mT) / len(points)  # [1, B, B]
            if kept:
                x, d, near = kept
                return _pull_back(points, x, d, near, grad)
            pulls = []
            for part in points.split(_sets(points)):
                x = _centred(part)
                pulls.append(_pull_back(part, x, *_distances(part, x), grad))
            return torch.cat(pulls)


def _centred(points: Tensor) -> Tensor:
    """Minus the mean over the batch: norms as small as they get, distances as they were."""
    return points - points.mean(1, keepdim=True)


def _sets(points: Tensor) -> int:
    """How many of the S distance matrices fit in a chunk."""
    return max(1, CHUNK // points.shape[1] ** 2)


def _distances(points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances d [S, B, B] of points [S, B, D], x the same centred; and near pairs [K, 3] as
    (s, i, j), i < j."""
    sets, batch, _ = x.shape
    # a GPU prefers one large product; on CPU the blocks below the diagonal are saved
    step = batch if x.is_cuda or sets > 1 or batch < 2 * BLOCK else BLOCK
    edges = [(i, min(i + step, batch)) for i in range(0, batch, step)]
    d = x.new_empty(sets, batch, batch)
    for i, e in edges:  # diagonal blocks first: the norms must come from the same products
        torch.matmul(x[:, i:e], x[:, i:e].mT, out=d[:, i:e, i:e])
    norms = d.diagonal(dim1=1, dim2=2).clone()  # [S, B]
    near = []
    for i, e in edges:
        block = d[:, i:e, i:e]
        flags = _gram_to_distance(block, norms[:, i:e], norms[:, i:e])
        near.append(flags.triu_(1).nonzero() + flags.new_tensor([0, i, i], dtype=torch.long))
        if e < batch:
            block = x[:, i:e] @ x[:, e:].mT
            flags = _gram_to_distance(block, norms[:, i:e], norms[:, e:])
            near.append(flags.nonzero() + flags.new_tensor([0, i, e], dtype=torch.long))
            d[:, i:e, e:] = block
            d[:, e:, i:e] = block.mT
    near = torch.cat(near)
    for some in near.split(max(1, CHUNK // x.shape[2])):
        s, i, j = some.unbind(1)
        # of the points as given: centring has rounded x
        exact = torch.linalg.vector_norm(points[s, i] - points[s, j], dim=1)
        d[s, i, j] = exact
        d[s, j, i] = exact
    return d, near


def _gram_to_distance(gram: Tensor, n_rows: Tensor, n_cols: Tensor) -> Tensor:
    """Turn G [S, b, c] into distances in place; returns where they are near, bool [S, b, c]."""
    total = n_rows[:, :, None] + n_cols[:, None, :]
    gram.mul_(-2).add_(total)
    near = gram < total.mul_(NEAR)
    gram.clamp_min_(0).sqrt_()
    return near


def _pull_back(points: Tensor, x: Tensor, d: Tensor, near: Tensor, grad: Tensor) -> Tensor:
    """∂L/∂x [S, B, D] from the symmetric ∂L/∂d [1, B, B]."""
    w = (grad / d).masked_fill_(d == 0, 0)  # [S, B, B]
    s, i, j = near.unbind(1)
    w_near = w[s, i, j]
    w[s, i, j] = 0
    w[s, j, i] = 0
    rows = w.sum(2)
    w.neg_().diagonal(dim1=1, dim2=2).copy_(rows)
    dx = w @ x
    flat = dx.view(-1, x.shape[2])  # [S * B, D]
    size = max(1, CHUNK // x.shape[2])
    for some, weight in zip(near.split(size), w_near.split(size), strict=True):
        s, i, j = some.unbind(1)
        pull = (points[s, i] - points[s, j]) * weight[:, None]
        flat.index_add_(0, s * x.shape[1] + i, pull)
        flat.index_add_(0, s * x.shape[1] + j, pull, alpha=-1)
    return dx
