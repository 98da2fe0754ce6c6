"""``pearson``: 1 − correlation of the pair distances (MM-Reg's variant B); the default.

    L = 1 − Σ a b / √(Σ a² Σ b²),   a = d − mean d,  b = r − mean r,  over pairs i ≠ j
    ∂L/∂d = ρ a / Σ a² − b / √(Σ a² Σ b²)

In [0, 2]. Invariant to scale and shift of either side, so its gradient is orthogonal to scaling
the latents. Sums in float64. Also ``zscore_mse``, the loss of the MMAE code (arXiv 2603.16568),
which is the same thing twice: mean (zscore d − zscore r)² = 2 (1 − ρ).
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, PairLoss, PairLossConfig

IN_CACHE = 2**16
"""Numbers converted to float64 at a time on CPU (512 KiB); a GPU prefers few large kernels."""
IN_MEMORY = 2**24


def no_spread(variation: Tensor, mean: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """True where a standard deviation √(variation / count) is within rounding of zero.

    Args:
        variation: Σ (x − mean)², float64 scalar; ``count`` terms.
        dtype: precision in which the distances themselves were computed.
    """
    return (variation / count).sqrt() <= 16 * torch.finfo(dtype).eps * mean.abs()


def _row_blocks(*matrices: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """(first row, the same rows of each [B, B] matrix), block by block."""
    batch = len(matrices[0])
    step = max(1, (IN_MEMORY if matrices[0].is_cuda else IN_CACHE) // batch)
    for start in range(0, batch, step):
        yield start, [m[start : start + step] for m in matrices]


class _CorrelationLoss(torch.autograd.Function):
    """1 − corr over the off-diagonal entries of d, r [B, B] → loss, (d flat, r flat)."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        count = len(d) * (len(d) - 1)
        sums = d.new_zeros(2, dtype=torch.float64)
        for _, (dd, rr) in _row_blocks(d, r):  # the zero diagonals add nothing
            sums += torch.stack((dd.double().sum(), rr.double().sum()))
        mean_d, mean_r = sums / count
        moments = d.new_zeros(3, dtype=torch.float64)
        for start, (dd, rr) in _row_blocks(d, r):
            a, b = dd.double() - mean_d, rr.double() - mean_r
            a.diagonal(start).zero_()
            b.diagonal(start).zero_()
            a, b = a.flatten(), b.flatten()
            moments += torch.stack((a.dot(a), b.dot(b), a.dot(b)))
        aa, bb, ab = moments
        flat = torch.stack(
            (no_spread(aa, mean_d, count, d.dtype), no_spread(bb, mean_r, count, d.dtype))
        )
        # without spread on either side: ρ := 0, gradient 0
        rho = torch.where(flat.any(), 0, ab / (aa * bb).sqrt()).clamp(-1, 1)
        of_a = torch.where(flat.any(), 0, rho / aa)
        of_b = torch.where(flat.any(), 0, -1 / (aa * bb).sqrt())
        ctx.save_for_backward(d, r, torch.stack((mean_d, mean_r, of_a, of_b)))
        ctx.mark_non_differentiable(flat)
        return (1 - rho).to(d.dtype), flat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        d, r, numbers = ctx.saved_tensors
        mean_d, mean_r, of_a, of_b = numbers
        of_a, of_b = of_a * grads[0], of_b * grads[0]
        grad = torch.empty_like(d)  # its diagonal means nothing: d_ii has no gradient
        for _, (dd, rr, out) in _row_blocks(d, r, grad):
            a, b = dd.double() - mean_d, rr.double() - mean_r
            out.copy_(a.mul_(of_a).add_(b.mul_(of_b)))
        return grad, None


class CorrelationLoss(PairLoss):
    """factor · (1 − Pearson correlation of pair distances)."""

    factor = 1.0

    def compare(self, d: Tensor, r: Tensor) -> Tensor:
        loss, flat = _CorrelationLoss.apply(d, r)  # type: ignore[misc]
        self.watch(*flat)
        return self.factor * loss


class ZScoreMSELoss(CorrelationLoss):
    """Mean squared difference of z-scored pair distances = 2 (1 − ρ); without spread, 2."""

    factor = 2.0


@LOSSES.register("pearson", help="1 - Pearson correlation of pair distances (default)")
@schema
class PearsonConfig(PairLossConfig):
    """1 − Pearson correlation of pair distances."""

    kind: Literal["pearson"] = "pearson"

    def build(self) -> CorrelationLoss:
        """The loss as a module."""
        return CorrelationLoss(self.distance, self.gather)


@LOSSES.register("zscore_mse", help="MSE of z-scored pair distances: 2 (1 - correlation)")
@schema
class ZScoreMSEConfig(PairLossConfig):
    """MSE of z-scored pair distances (the MMAE code's loss, without its zero diagonal)."""

    kind: Literal["zscore_mse"] = "zscore_mse"

    def build(self) -> ZScoreMSELoss:
        """The loss as a module."""
        return ZScoreMSELoss(self.distance, self.gather)
