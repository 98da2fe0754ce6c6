"""Neighbourhoods: what is near in the latent space, and is it near in the reference too?

All take exact Euclidean neighbours, never the point itself. Intervals resample points with their
neighbourhoods kept (resampling the neighbourhoods would put copies of a point next to it).
"""

from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_labels, check_paired
from latentsmith.metrics.pairdist import Vectors
from latentsmith.metrics.points import Points
from latentsmith.metrics.registry import metric


def _pair(latents: Vectors, reference: Vectors, k: int, what: str) -> tuple[Points, Points]:
    z, r = Points.of(latents, "latents"), Points.of(reference, "reference")
    check_paired(z.x, r.x, z.name, r.name)
    check_count(len(z), k + 2, f"{what} with k = {k}")
    z.check_spread(what)
    r.check_spread(what)
    return z, r


def mutual_knn_per_sample(latents: Vectors, reference: Vectors, *, k: int = 10) -> Tensor:
    """Share [N] of each point's k latent neighbours that are k reference neighbours too."""
    z, r = _pair(latents, reference, k, "mutual_knn")
    a, b = z.neighbours(k), r.neighbours(k)
    return (a[:, :, None] == b[:, None, :]).any(2).double().mean(1)


def _mutual_knn_chance(
    latents: Vectors, reference: Vectors, *, seed: int, k: int
) -> tuple[float, dict[str, Any]]:
    return k / (len(latents) - 1), {"chance": "k / (N - 1)"}


@metric(
    "mutual_knn",
    help="share of k nearest neighbors that latents and reference have in common",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    per_sample=mutual_knn_per_sample,
    baseline=_mutual_knn_chance,
)
def mutual_knn(latents: Vectors, reference: Vectors, *, k: int = 10) -> float:
    """Mean |kNN_Z(i) & kNN_R(i)| / k (Huh et al., The Platonic Representation Hypothesis, 2024).

    Args:
        latents: [N, ...], flattened. reference: [N, D].

    Raises:
        UserError: fewer than k + 2 samples, collapsed points, NaN, unequal counts.
    """
    return float(mutual_knn_per_sample(latents, reference, k=k).mean())


def _trust_per_sample(original: Points, embedded: Points, k: int, what: str) -> Tensor:
    """Trustworthiness of each point [N]; their mean is the metric.

    The rank of j from i in the original space is one more than the number of nearer points:
    counted for the k neighbours only, N^2 k comparisons and no N^2 log N sort.
    """
    n = len(original)
    if 2 * k >= n:
        raise UserError(f"{what} with k = {k} needs more than {2 * k} samples, got {n}.")
    near = embedded.neighbours(k)
    penalty = torch.zeros(n, dtype=torch.float64, device=near.device)
    for rows in torch.arange(n, device=near.device).split(256):
        d = original.distances[rows]
        own = torch.arange(len(rows), device=d.device)
        d[own, rows] = torch.inf
        to_near = d.gather(1, near[rows])  # [rows, k]
        for j in range(k):
            rank = 1 + (d < to_near[:, j : j + 1]).sum(1)
            penalty[rows] += (rank - k).clamp_min(0).double()
    return 1 - 2 * penalty / (k * (2 * n - 3 * k - 1))


def trustworthiness_per_sample(latents: Vectors, reference: Vectors, *, k: int = 10) -> Tensor:
    """[N]: 1 minus each point's penalty for latent neighbours that are no reference neighbours."""
    z, r = _pair(latents, reference, k, "trustworthiness")
    return _trust_per_sample(r, z, k, "trustworthiness")


def continuity_per_sample(latents: Vectors, reference: Vectors, *, k: int = 10) -> Tensor:
    """[N]: 1 minus each point's penalty for reference neighbours that the latents tear away."""
    z, r = _pair(latents, reference, k, "continuity")
    return _trust_per_sample(z, r, k, "continuity")


def _half(*_: Any, **__: Any) -> tuple[float, dict[str, Any]]:
    return 0.5, {"chance": "about 0.5 for k << N"}


@metric(
    "trustworthiness",
    help="are latent neighbors true neighbors in the reference? (1 = all, 0.5 = chance)",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    per_sample=trustworthiness_per_sample,
    baseline=_half,
)
def trustworthiness(latents: Vectors, reference: Vectors, *, k: int = 10) -> float:
    """Venna & Kaski 2001, with the reference as the original space; sklearn's definition.

    Raises: as `mutual_knn`, and UserError unless N > 2 k.
    """
    return float(trustworthiness_per_sample(latents, reference, k=k).mean())


@metric(
    "continuity",
    help="do reference neighbors stay neighbors in the latents? (1 = all, 0.5 = chance)",
    inputs=("latents", "reference"),
    higher_is_better=True,
    best=1.0,
    per_sample=continuity_per_sample,
    baseline=_half,
)
def continuity(latents: Vectors, reference: Vectors, *, k: int = 10) -> float:
    """Trustworthiness with the two spaces exchanged. Raises: as `trustworthiness`."""
    return float(continuity_per_sample(latents, reference, k=k).mean())


def vote(neighbour_labels: Tensor, classes: int) -> Tensor:
    """Majority label int64 [N] of [N, k]; ties go to the smallest label (as sklearn)."""
    counts = torch.zeros(len(neighbour_labels), classes, device=neighbour_labels.device)
    counts.scatter_add_(1, neighbour_labels, torch.ones_like(neighbour_labels, dtype=counts.dtype))
    return counts.argmax(1)


def knn_accuracy_per_sample(latents: Vectors, labels: Tensor, *, k: int = 10) -> Tensor:
    """1.0 where the k nearest other points vote for the point's own label, else 0.0; [N]."""
    z = Points.of(latents, "latents")
    labels = check_labels(labels, len(z)).to(z.x.device)
    check_count(len(z), k + 1, f"knn_accuracy with k = {k}")
    z.check_spread("knn_accuracy")
    classes, index = labels.unique(return_inverse=True)
    return (vote(index[z.neighbours(k)], len(classes)) == index).double()


def majority_share(labels: Tensor) -> float:
    """Accuracy of always naming the commonest class."""
    return float(labels.unique(return_counts=True)[1].max()) / len(labels)


def _majority(latents: Vectors, labels: Tensor, **_: Any) -> tuple[float, dict[str, Any]]:
    return majority_share(labels), {"chance": "commonest class"}


@metric(
    "knn_accuracy",
    help="leave-one-out accuracy of a k-nearest-neighbor vote on class labels",
    inputs=("latents", "labels"),
    higher_is_better=True,
    per_sample=knn_accuracy_per_sample,
    baseline=_majority,
)
def knn_accuracy(latents: Vectors, labels: Tensor, *, k: int = 10) -> float:
    """Share of points whose k nearest others vote for their label.

    Args:
        latents: [N, ...], flattened. labels: int [N].

    Raises:
        UserError: fewer than k + 1 samples, collapsed points, NaN, labels of another shape.
    """
    return float(knn_accuracy_per_sample(latents, labels, k=k).mean())
