r"""Principal components of rows that arrive in batches and are never held all at once.

Two streams with one result type:

* `CovarianceStream`: the D x D scatter matrix, exact; memory D², for small images.
* `IncrementalStream`: a running rank-r factor S with :math:`S^T S \approx \sum (x-\bar x)(x-\bar
  x)^T` (Ross et al. 2008, "Incremental learning for robust visual tracking"), updated by an
  eigendecomposition of the small Gram matrix of [S; new rows; mean shift]; memory (r + b) D. It
  forgets what lies outside the leading r directions at each update, so r exceeds what is asked.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_UP_TO = 2048
"""Dimensions up to which the scatter matrix is affordable (32 MiB)."""
CHUNK_BYTES = 256 << 20
"""Rows gathered before an incremental update, in float32 bytes."""


@dataclass(frozen=True)
class Components:
    """Leading principal components.

    Attributes:
        mean: float64 [D].
        axes: float64 [k, D], orthonormal rows, largest variance first; in each row the entry of
            largest magnitude is positive, so that a refit gives the same signs.
        variance: float64 [k], of the projections (divided by n - 1).
        total_variance: over all D directions.
        count: rows seen.
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor
    total_variance: float
    count: int


class _Stream:
    """Running mean and total scatter."""

    def __init__(self, dim: int):
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter_trace = 0.0

    def _center(self, rows: Tensor) -> Tensor:
        """Centre rows [n, D] on their own mean, add one row that carries the shift of the mean
        (Chan et al. 1983), and advance the running mean: [n + 1, D] in the rows' dtype."""
        n, mean = rows.shape[0], rows.mean(0, dtype=torch.float64)
        shift = math.sqrt(self.count * n / (self.count + n)) * (mean - self.mean)
        centered = torch.cat([rows - mean.to(rows.dtype), shift.to(rows.dtype)[None]])
        self.mean = self.mean + (mean - self.mean) * (n / (self.count + n))
        self.count += n
        self.scatter_trace += float(centered.square().sum(dtype=torch.float64))
        return centered

    def _components(self, axes: Tensor, scatter: Tensor) -> Components:
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        axes = axes.double() * torch.where(largest < 0, -1.0, 1.0)
        degrees = self.count - 1
        return Components(
            self.mean,
            axes,
            scatter.double().clamp_min(0) / degrees,
            self.scatter_trace / degrees,
            self.count,
        )


class CovarianceStream(_Stream):
    """Exact, by the scatter matrix."""

    def __init__(self, dim: int, rank: int):
        super().__init__(dim)
        self.rank = rank
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Add rows [n, D]."""
        centered = self._center(rows.double())
        self.scatter.addmm_(centered.T, centered)

    def finish(self) -> Components:
        """The leading ``rank`` components of all rows seen."""
        values, vectors = torch.linalg.eigh(self.scatter)
        return self._components(
            vectors.T.flip(0)[: self.rank].contiguous(), values.flip(0)[: self.rank]
        )


class IncrementalStream(_Stream):
    """Approximate beyond the kept rank, in memory proportional to it."""

    def __init__(self, dim: int, rank: int):
        super().__init__(dim)
        self.rank = rank
        # The bulk of a natural image's spectrum decays slowly: twice the rank keeps the leading
        # half accurate although the rest is cut at every update.
        self.kept = min(dim, 2 * rank + 16)
        self.chunk = max(self.kept, CHUNK_BYTES // (4 * dim))
        self.factor = torch.zeros(0, dim)  # float32: it and the chunk are what memory is spent on
        self.waiting: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """Add rows [n, D]."""
        self.waiting.append(rows.float().cpu())
        if sum(len(part) for part in self.waiting) >= self.chunk:
            self._absorb()

    def _absorb(self) -> None:
        if not self.waiting:
            return
        rows = torch.cat(self.waiting)
        self.waiting = []
        stack = torch.cat([self.factor, self._center(rows)])  # [r + n + 1, D]
        # Gram instead of an SVD of the long matrix: several times faster. It squares the
        # condition number, hence the products in float64, a slice of columns at a time.
        gram = torch.zeros(len(stack), len(stack), dtype=torch.float64)
        for columns in stack.split(8192, dim=1):
            wide = columns.double()
            gram.addmm_(wide, wide.T)
        _, vectors = torch.linalg.eigh(gram)
        leading = vectors[:, -min(self.kept, len(stack)) :].flip(1)
        self.factor = leading.T.float() @ stack  # orthogonal rows, largest first

    def finish(self) -> Components:
        """The leading ``rank`` components of all rows seen."""
        self._absorb()
        leading = self.factor[: self.rank].double()
        norms = leading.norm(dim=1)
        return self._components(leading / norms[:, None].clamp_min(1e-300), norms.square())
