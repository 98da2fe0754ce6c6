"""``spearman``: 1 − correlation of soft ranks of the pair distances.

    u = (d − mean d) / sd d
    rank(u_p) = Σ_q s((u_p − u_q) / 2h),   s(v) = clamp(v + 1/2, 0, 1)

A hard rank counts the smaller values and has no gradient; a soft rank counts each with a weight
that rises from 0 to 1 as u_p passes from h below it to h above (h: ``temperature``, in standard
deviations). h → 0 gives exact ranks (ties averaged, so exactly Spearman's ρ), h → ∞ makes ranks
linear in d, so exactly Pearson's. The linear ramp is chosen over a sigmoid because its sum over
all q is then a count and a difference of prefix sums over the sorted values: exact, with exact
gradient, in O(P log P) time and O(P) memory, where a sigmoid needs P × P (P = 130,816 pairs at
B = 512) or a subsample of pairs.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, Distance, PairLoss, PairLossConfig
from latentsmith.losses.correlation import no_spread
from latentsmith.losses.pairwise import pairs


class _SoftRank(torch.autograd.Function):
    """Soft ranks of ascending u [P], float64."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, h: float) -> Tensor:
        below = torch.searchsorted(u, u - h, right=True)  # u_q ≤ u_p − h count fully
        upto = torch.searchsorted(u, u + h)  # u_q < u_p + h count in part
        ctx.save_for_backward(below, upto)
        ctx.h = h
        partly = upto - below
        return below + partly * (u / (2 * h) + 0.5) - _window_sum(u, below, upto) / (2 * h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # ∂rank_p/∂u_q = −1/2h and ∂rank_p/∂u_p = +1/2h for each of the pairs (p, q) within h
        below, upto = ctx.saved_tensors
        (grad,) = grads
        return ((upto - below) * grad - _window_sum(grad, below, upto)) / (2 * ctx.h), None


def _window_sum(x: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Σ x[start_p : stop_p] for each p, [P]."""
    prefix = F.pad(x.cumsum(0), (1, 0))
    return prefix[stop] - prefix[start]


def soft_ranks(x: Tensor, temperature: float) -> Tensor:
    """Differentiable ranks in [1/2, P − 1/2], ties averaged (SciPy's average ranks − 1/2 as
    ``temperature`` → 0).

    Args:
        x: [P] float64.
        temperature: half-width of the comparison ramp, in units of ``x``.
    """
    values, order = x.sort()
    ranks = _SoftRank.apply(values, temperature)
    return torch.zeros_like(x).scatter(0, order, ranks)  # type: ignore[arg-type]


class SoftSpearmanLoss(PairLoss):
    """1 − Pearson correlation of soft ranks.

    Args:
        temperature: half-width of the soft comparison in standard deviations of the distances.
    """

    def __init__(
        self, distance: Distance = "flat", gather: bool = True, *, temperature: float = 0.1
    ):
        super().__init__(distance, gather)
        self.temperature = temperature

    def compare(self, d: Tensor, r: Tensor) -> Tensor:
        (a, a_flat), (b, b_flat) = (self._centred_ranks(x) for x in (d, r))
        self.watch(a_flat, b_flat)
        flat = a_flat | b_flat
        # a flat side has Σ a² = 0: divide by 1 there, where Σ a b = 0 too
        power = torch.where(flat, 1, a.square().sum() * b.square().sum())
        rho = torch.where(flat, 0, (a * b).sum() / power.sqrt())
        return (1 - rho).to(d.dtype)

    def _centred_ranks(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Soft ranks of d's pairs minus their mean, [P]; and whether d has no spread."""
        x = pairs(d)
        mean = x.mean()
        variance = (x - mean).square().mean()
        flat = no_spread(variance.detach(), mean.detach(), 1, d.dtype)
        u = (x - mean) / torch.where(flat, 1, variance).sqrt()
        ranks = soft_ranks(u, self.temperature)
        return ranks - ranks.mean(), flat


@LOSSES.register("spearman", help="1 - correlation of soft ranks of pair distances")
@schema
class SpearmanConfig(PairLossConfig):
    """1 − correlation of differentiable ranks of pair distances."""

    kind: Literal["spearman"] = "spearman"
    temperature: Annotated[float, Field(ge=1e-6)] = 0.1
    """Half-width of the soft comparison, in standard deviations of the distances. Small: exact
    ranks, but only distances this close to each other exchange gradient; large: Pearson."""

    def build(self) -> SoftSpearmanLoss:
        """The loss as a module."""
        return SoftSpearmanLoss(self.distance, self.gather, temperature=self.temperature)
