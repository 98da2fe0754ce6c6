"""How near are a network's features to a teacher's? For aligned generators (REPA, U-REPA).

``token_cosine`` looks at single tokens after the head; ``similarity_mae`` at the similarities of
pairs of images. Whether nearest neighbours agree is `mutual_knn` with k = 1 on unit vectors.
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.losses.alignment import unit
from latentsmith.losses.manifold import pooled
from latentsmith.metrics.checks import check_count, check_finite
from latentsmith.metrics.intervals import bootstrap_weights, permutation_mean
from latentsmith.metrics.registry import metric


def token_cosine_per_sample(tokens: Tensor, tokens_ref: Tensor) -> Tensor:
    """Mean cosine of each image's tokens with the teacher's [N]; arguments as `token_cosine`."""
    for x, name in ((tokens, "tokens"), (tokens_ref, "tokens_ref")):
        check_finite(x, name)
    if tokens.shape != tokens_ref.shape or tokens.ndim != 3:
        raise UserError(
            f"tokens {list(tokens.shape)} against a teacher's {list(tokens_ref.shape)}: both are "
            "[N, T, D], after the head and on one grid"
        )
    parts = zip(tokens.split(256), tokens_ref.split(256), strict=True)  # float64 of a batch only
    return torch.cat([(unit(a.double()) * unit(b.double())).sum(2).mean(1) for a, b in parts])


def _shuffled(tokens: Tensor, tokens_ref: Tensor, *, seed: int) -> tuple[float, dict[str, Any]]:
    """Tokens of another image: what the teacher's mean token alone gives."""
    return permutation_mean(
        lambda i, j: float(token_cosine_per_sample(tokens[i], tokens_ref[j]).mean()),
        len(tokens),
        seed,
    )


@metric(
    "token_cosine",
    help="mean cosine of a network's projected tokens with the teacher's, token by token",
    inputs=("tokens", "tokens_ref"),
    higher_is_better=True,
    best=1.0,
    per_sample=token_cosine_per_sample,
    baseline=_shuffled,
)
def token_cosine(tokens: Tensor, tokens_ref: Tensor) -> float:
    """Mean over images and tokens of cos(h, y).

    Its chance level is that of the tokens of other images, which is not 0: teachers' tokens share
    a mean direction.

    Args:
        tokens, tokens_ref: [N, T, D].

    Raises:
        UserError: other shapes, NaN.
    """
    return float(token_cosine_per_sample(tokens, tokens_ref).mean())


def _differences(tokens: Tensor, tokens_ref: Tensor) -> Tensor:
    """|cos(z_i, z_j) − cos(r_i, r_j)| of pooled tokens [N, N], zero diagonal, float64."""
    check_finite(tokens, "tokens")
    check_finite(tokens_ref, "tokens_ref")
    check_count(len(tokens), 2, "similarity_mae")
    if tokens.ndim != 3 or tokens_ref.ndim != 3 or len(tokens) != len(tokens_ref):
        raise UserError(
            f"tokens {list(tokens.shape)} against a teacher's {list(tokens_ref.shape)}: both are "
            "[N, T, D], of the same images"
        )
    a, b = (torch.cat([pooled(x.double()) for x in t.split(256)]) for t in (tokens, tokens_ref))
    return (a @ a.T).sub_(b @ b.T).abs_().fill_diagonal_(0)


def _mae_replicates(
    tokens: Tensor, tokens_ref: Tensor, *, value: float, replicates: int, seed: int
) -> Tensor:
    """Over images, as `latentsmith.metrics.pairdist`: copies of one image are no pair."""
    off = _differences(tokens, tokens_ref)
    w = bootstrap_weights(len(off), replicates, seed).to(off)
    return (w * (off @ w)).sum(0) / (len(off) ** 2 - w.square().sum(0))


def _mae_chance(tokens: Tensor, tokens_ref: Tensor, *, seed: int) -> tuple[float, dict[str, Any]]:
    return permutation_mean(
        lambda i, j: similarity_mae(tokens[i], tokens_ref[j]), len(tokens), seed
    )


@metric(
    "similarity_mae",
    help="mean absolute difference of the cosines of image pairs, features against a teacher's",
    inputs=("tokens", "tokens_ref"),
    higher_is_better=False,
    best=0.0,
    replicates=_mae_replicates,
    baseline=_mae_chance,
)
def similarity_mae(tokens: Tensor, tokens_ref: Tensor) -> float:
    """Mean over i < j of |cos(z_i, z_j) − cos(r_i, r_j)|, in [0, 2], of images as the mean of
    their unit tokens: what `latentsmith.losses.manifold.image_relations` squares.

    Args:
        tokens: [N, T, D]. tokens_ref: [N, S, E].

    Raises:
        UserError: fewer than 2 images, NaN, other shapes.
    """
    off = _differences(tokens, tokens_ref)
    return float(off.sum() / (len(off) * (len(off) - 1)))
