"""Points in many dimensions on a map of two, and how wrong each point's distances are."""

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite, check_paired
from latentsmith.metrics.points import Points

Projection = Literal["pca", "umap"]
NEIGHBOURS = 15
"""UMAP's own default; of fewer points, all of them."""


def project(x: Tensor, kind: Projection, *, seed: int = 0) -> Tensor:
    """[N, …] → float64 [N, 2]; the same points for the same seed.

    Args:
        kind: ``pca``, the two directions of largest variance; ``umap`` (McInnes et al. 2018,
            arXiv 1802.03426), which keeps neighbours together and says nothing of far distances.

    Raises:
        UserError: NaN, fewer than 3 points, another kind, or umap-learn is not there.
    """
    check_finite(x, "points of the map")
    check_count(len(x), 3, "a map", "points")
    flat = x.flatten(1).double()
    if kind == "pca":
        return _pca(flat)
    if kind != "umap":
        raise UserError(f"no projection {kind!r}; known: pca, umap.")
    if importlib.util.find_spec("umap") is None:
        raise UserError("UMAP needs a package: pip install 'latentsmith[ui]', or use PCA")
    return _umap(flat, seed)


def _pca(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    points = torch.zeros(len(x), 2, dtype=torch.float64)
    points[:, : min(2, len(s))] = u[:, :2] * s[:2]  # one dimension: a line
    return points


def _umap(x: Tensor, seed: int) -> Tensor:
    import warnings

    import umap

    maker = umap.UMAP(n_neighbors=min(NEIGHBOURS, len(x) - 1), random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a graph in several parts, which a map may well have
        return torch.from_numpy(maker.fit_transform(x.numpy())).double()


def turned(points: Tensor, like: Tensor) -> Tensor:
    """``points`` [N, 2] turned and mirrored, never stretched, to lie as ``like`` [N, 2] does
    (orthogonal Procrustes, Schönemann 1966). Both centred."""
    check_paired(points, like, "map", "map it is turned to")
    points, like = points - points.mean(0), like - like.mean(0)
    u, _, v = torch.linalg.svd(points.T @ like)
    return points @ (u @ v)


def distance_error(latents: Tensor, reference: Tensor) -> Tensor:
    """How wrong each sample's distances to all others are, float64 [N]; 0: all in proportion.

    With d the distances between latents, r those between references and s = Σ d r / Σ d², the
    scale that serves all pairs best:

        e_i = √( Σ_j (s d_ij − r_ij)² / Σ_j r_ij² )

    Kruskal's stress (1964), of one row of the matrix.

    Raises:
        UserError: NaN, unpaired, or all latents (or references) coincide.
    """
    z, r = Points(latents, "latents"), Points(reference, "references")
    check_paired(z.x, r.x, z.name, r.name)
    d, wanted = z.distances, r.distances
    for name, side in (("latents", d), ("references", wanted)):
        if not bool(side.any()):
            raise UserError(f"all {name} coincide, so their distances say nothing")
    scale = (d * wanted).sum() / d.square().sum()
    lost = (scale * d - wanted).square().sum(1)
    return (lost / wanted.square().sum(1).clamp_min(1e-300)).sqrt()
