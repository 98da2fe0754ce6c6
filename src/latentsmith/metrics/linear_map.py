"""The best linear map from one network's tokens to another's, fitted as batches come.

    min_W,b  mean |W x + b − y|² + l2 Σ_d var(x_d) |W_d|²

What a linear layer could read of a teacher in features, whatever head was trained on them: the
same measure for networks that were aligned and for those that were not.
"""

import torch
from torch import Tensor

from latentsmith.errors import UserError


class LinearMap:
    """Streaming ridge regression in float64: memory of D x (D + E), whatever the number of rows.

    Args:
        l2: strength of the penalty, relative to each dimension's variance.
    """

    def __init__(self, l2: float = 1e-3):
        self.l2, self.count = l2, 0
        self._xx = self._xy = self._x = self._y = torch.zeros((), dtype=torch.float64)
        self._weight: Tensor | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows [n, D] and their targets [n, E]."""
        x, y = x.double(), y.double()
        if not self.count:
            (d, e), zeros = (x.shape[1], y.shape[1]), x.new_zeros
            self._xx, self._xy, self._x, self._y = zeros(d, d), zeros(d, e), zeros(d), zeros(e)
        self._xx.addmm_(x.T, x)
        self._xy.addmm_(x.T, y)
        self._x += x.sum(0)
        self._y += y.sum(0)
        self.count += len(x)
        self._weight = None

    def weight(self) -> Tensor:
        """W [D, E], float64.

        Raises:
            UserError: fewer than two rows, or rows that are not finite.
        """
        if self._weight is None:
            self._weight = self._solved()
        return self._weight

    def _solved(self) -> Tensor:
        if self.count < 2:
            raise UserError(f"a linear map needs at least 2 rows, and was given {self.count}")
        if not bool(self._xx.isfinite().all() and self._xy.isfinite().all()):
            raise UserError("a linear map was given features or targets that are not finite")
        mean = self._x / self.count
        cov = self._xx / self.count - mean.outer(mean)
        cross = self._xy / self.count - mean.outer(self._y / self.count)
        variance = cov.diagonal().clamp_min(0)
        # a dimension that never varies has no weight, and must not make the system singular
        floor = variance.max().clamp_min(1e-30) * 1e-12
        return torch.linalg.solve(cov + torch.diag(self.l2 * variance + floor), cross)

    def __call__(self, x: Tensor) -> Tensor:
        """Rows [..., D] → predictions [..., E], float64. Raises as `weight`."""
        return (x.double() - self._x / self.count) @ self.weight() + self._y / self.count
