"""Alignment of *relations*: cosines between tokens, or between images, follow the teacher's
(U-REPA, Tian et al. 2025).

    L = mean over pairs i < j of (cos(h_i, h_j) − cos(y_i, y_j))²

``tokens``: i, j are tokens of one image (the paper's formula). ``images``: i, j are images of the
global batch, each the mean of its unit tokens (what the paper's prose says, and the source does).
``both``: the sum of the two.

The diagonal is 0 on both sides and never enters the mean: with it the loss would shrink with the
batch. The paper's equation 3 has a minus sign, which would push relations apart.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.losses.alignment import unit
from latentsmith.losses.pairwise import full_precision
from latentsmith.utils.distributed import gather_with_grad

Scope = Literal["images", "tokens", "both"]


@schema
class ManifoldConfig:
    """U-REPA's second loss: relations follow the teacher's."""

    weight: Annotated[float, Field(gt=0)] = 3.0
    """Factor beside the loss of single tokens (w; 3 is the paper's optimum)."""
    scope: Scope = "images"
    """Relations between images of the global batch, between the tokens of each image, or both."""
    cap: Annotated[float, Field(gt=0)] | None = None
    """The loss counts as at most this; beyond, it has no gradient. For runs that a few batches
    throw off course: look for broken teacher tokens first."""

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar before its weight; arguments as `image_relations`."""
        parts = []
        if self.scope != "tokens":
            parts.append(image_relations(student, teacher))
        if self.scope != "images":
            parts.append(token_relations(student, teacher).mean())
        return self.capped(torch.stack(parts).sum())

    def capped(self, loss: Tensor) -> Tensor:
        """``loss``, or `cap` without gradient where it is above that."""
        return loss if self.cap is None else loss.clamp(max=self.cap)


def image_relations(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the images' cosines, over all pairs of the global batch.

    Args:
        student, teacher: tokens [B, N, D] and [B, M, E] of the same images. No gradient goes into
            the teacher.

    Returns:
        Scalar in [0, 4], float32 (or wider) whatever the autocast.

    Raises:
        UserError: a global batch of one image.
    """
    return relations(pooled(student), pooled(teacher))


def relations(vectors: Tensor, teacher: Tensor) -> Tensor:
    """`image_relations` of images that are one unit vector each, [B, D] and [B, E]."""
    with full_precision(vectors):
        h = gather_with_grad(vectors)
        with torch.no_grad():
            y = gather_with_grad(teacher.detach())
        if len(h) < 2:
            raise UserError(
                "relations between images need a batch of at least 2 (128 is the source's): raise "
                "the batch size, or set manifold.scope=tokens"
            )
        return _difference(h[None], y[None])[0]


def token_relations(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the tokens' cosines within each image [B], in [0, 4], float32 (or
    wider) whatever the autocast.

    Args:
        student, teacher: tokens [B, N, D] and [B, N, E]. No gradient goes into the teacher.

    Raises:
        ValueError: other numbers of tokens, or a single one.
    """
    if student.shape[:2] != teacher.shape[:2] or student.shape[1] < 2:
        raise ValueError(f"tokens {list(student.shape)} against a teacher's {list(teacher.shape)}")
    with full_precision(student):
        return _difference(unit(student), unit(teacher.detach()))


def pooled(tokens: Tensor) -> Tensor:
    """One unit vector for each image, [B, N, D] → [B, D], float32 or wider. Not token 0: on a grid
    of patches that is the top left corner."""
    with full_precision(tokens):
        return unit(unit(tokens).mean(1))


def _difference(h: Tensor, y: Tensor) -> Tensor:
    """Unit vectors [S, n, D], [S, n, E] → mean over pairs i < j, [S]."""
    n = h.shape[1]
    off = torch.baddbmm(y @ y.mT, h, h.mT, beta=-1)  # one n x n product kept for backward, not two
    off = off - torch.diag_embed(off.diagonal(dim1=1, dim2=2))  # rounding; both are 1 there
    return off.square().sum((1, 2)) / (n * (n - 1))
