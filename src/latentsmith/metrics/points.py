"""One set of vectors with its distances and neighbours, computed once and shared by all metrics.

Every metric of pair geometry takes ``Tensor | Points``: pass tensors for one number, `Points` to
let a whole card share one [N, N] distance matrix. Memory: 8 N^2 bytes for distances (134 MB at
N = 4096) and as much again for their ranks when a rank correlation is asked for.
"""

from functools import cached_property

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.metrics.checks import check_count, check_finite

_ROWS = 1024
"""Rows per block: temporaries stay at ``8 * _ROWS * N`` bytes."""
_TIE = 2.0**36
"""Steps of the largest distance that ranks tell apart: far above the Gram form's rounding."""
_NEAR = 1e-8
"""Squared distances below this share of |a|^2 + |b|^2 lost digits in the Gram form."""


class Points:
    """Vectors ``x`` float64 [N, D], centred (distances do not see it; it saves digits).

    Args:
        x: [N, ...]; everything after the first axis is flattened.
        name: what messages call them (``"latents"``).

    Raises:
        UserError: NaN or infinity, or fewer than 2 points.
    """

    def __init__(self, x: Tensor, name: str = "points"):
        check_finite(x, name)
        check_count(len(x), 2, f"geometry of {name}")
        self.name = name
        flat = x.detach().flatten(1).double()
        self.x = flat - flat.mean(0)

    @classmethod
    def of(cls, value: "Tensor | Points", name: str = "points") -> "Points":
        """``value`` itself when it is Points already, so that its distances are shared."""
        return value if isinstance(value, Points) else cls(value, name)

    @classmethod
    def of_labels(cls, labels: Tensor) -> "Points":
        """Class labels as a geometry: distance 0 within a class, 1 across classes."""
        _, index = labels.unique(return_inverse=True)
        out = cls(torch.nn.functional.one_hot(index).double() / 2**0.5, "labels")
        # Written down rather than computed: rounding would break the ties between equal distances.
        out.__dict__["distances"] = (index[:, None] != index[None]).double()
        return out

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def distances(self) -> Tensor:
        """Euclidean distances float64 [N, N], symmetric, zero diagonal.

        Gram form, with norms from the Gram's own diagonal; pairs so near that the Gram form
        loses digits are recomputed by direct difference, so duplicates are exactly 0 apart.
        """
        x = self.x
        n = len(x)
        norms = (x * x).sum(1)
        d2 = x.new_empty(n, n)
        for rows in torch.arange(n, device=x.device).split(_ROWS):
            block = norms[rows, None] + norms[None] - 2.0 * (x[rows] @ x.T)
            near = block < _NEAR * (norms[rows, None] + norms[None])
            near[torch.arange(len(rows), device=x.device), rows] = False
            i, j = near.nonzero(as_tuple=True)
            for some in torch.arange(len(i), device=x.device).split(65536):
                block[i[some], j[some]] = (x[rows[i[some]]] - x[j[some]]).square().sum(1)
            d2[rows] = block
        d2.triu_(1)  # one half, mirrored: some matrix kernels round x y' and y x' apart
        return (d2 + d2.T).clamp_min_(0.0).sqrt_()

    @cached_property
    def distance_ranks(self) -> Tensor:
        """Average ranks of the pair distances, float64 [N, N], symmetric, zero diagonal.

        Ranks 1 … P over the P = N(N-1)/2 pairs; ties share their mean rank (as scipy's rankdata).
        Distances equal up to 1e-11 of the largest count as ties: rounding must not order them.
        """
        d = (self.distances * (_TIE / max(self.diameter, 1e-300))).round()
        n = len(d)
        ranks = average_ranks(torch.cat([d[i, i + 1 :] for i in range(n)]))
        out = torch.zeros_like(d)
        start = 0
        for i in range(n):
            out[i, i + 1 :] = ranks[start : start + n - 1 - i]
            start += n - 1 - i
        return out + out.T

    def neighbours(self, k: int) -> Tensor:
        """Indices int64 [N, k] of the k nearest other points, nearest first (``k < N``)."""
        return self.nearest(k)[1]

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """(distances float64 [N, k], indices [N, k]) of the k nearest other points."""
        check_count(len(self), k + 1, f"{k} nearest neighbours of {self.name}", "points")
        if k > self._nearest[1].shape[1]:
            self._nearest = self._topk(k)
        values, indices = self._nearest
        return values[:, :k], indices[:, :k]

    @cached_property
    def _nearest(self) -> tuple[Tensor, Tensor]:
        return self._topk(min(32, len(self) - 1))

    def _topk(self, k: int) -> tuple[Tensor, Tensor]:
        values, indices = [], []
        for rows in torch.arange(len(self), device=self.x.device).split(_ROWS):
            block = self.distances[rows]
            # A point is never its own neighbour, also when it has exact duplicates.
            block[torch.arange(len(rows), device=block.device), rows] = torch.inf
            near = block.topk(k, largest=False, sorted=True)
            values.append(near.values)
            indices.append(near.indices)
        return torch.cat(values), torch.cat(indices)

    def subset(self, index: Tensor) -> "Points":
        """The points at ``index``; known distances are gathered, not recomputed."""
        out = Points(self.x[index], self.name)
        if "distances" in self.__dict__:
            out.__dict__["distances"] = submatrix(self.distances, index)
        return out

    def first_copies(self) -> Tensor:
        """Indices [M] of the points without exact duplicates: of each, the first copy."""
        duplicate = (self.distances == 0).tril(-1).any(1)
        return (~duplicate).nonzero()[:, 0]

    @cached_property
    def diameter(self) -> float:
        """The largest distance."""
        return float(self.distances.max())

    def check_spread(self, what: str) -> None:
        """Raises UserError when all points coincide (a collapsed space has no geometry)."""
        if self.diameter == 0:
            raise UserError(
                f"{what} is undefined: all {len(self)} {self.name} are the same point (collapsed)."
            )


def submatrix(a: Tensor, index: Tensor) -> Tensor:
    """Rows and columns ``index`` of [N, N], touching those entries only."""
    entries = index[:, None] * len(a) + index  # one gather of a row is quicker than two indices
    picked = a.flatten().index_select(0, entries.flatten().to(a.device))
    return picked.view(len(index), len(index))


def average_ranks(values: Tensor) -> Tensor:
    """Ranks 1 … n of a float vector [n], ties sharing their mean rank; float64."""
    ordered, order = values.sort()
    _, group, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = last - (counts.double() - 1) / 2
    ranks = torch.empty_like(ordered, dtype=torch.float64)
    ranks[order] = mean_rank[group]
    return ranks
