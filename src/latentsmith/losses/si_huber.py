"""``si_huber``: Huber loss of mean-normalized distances (MM-Reg's variant A, "Si-MSE").

    L = mean over pairs of Huber_δ(d / sg(mean d), r / mean r)     (+ γ (log (mean d / anchor))²)

The source stops the gradient of the latent mean (sg). The *value* is then scale-invariant but the
gradient is not: it can steadily grow or shrink the latents. ``detach_scale=false`` makes both
invariant; an anchor holds the mean latent distance instead.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, Distance, PairLoss, PairLossConfig
from latentsmith.losses.pairwise import pairs


class ScaleInvariantHuberLoss(PairLoss):
    """Huber loss of distances divided by their mean.

    Args:
        delta: distance ratio at which the loss turns from quadratic to linear.
        detach_scale: stop the gradient of the latent mean distance.
        anchor_weight: γ; 0 is no anchor.
        anchor: mean latent distance to hold; None: that of the first batch seen (a buffer, so
            that a resumed run keeps it).
    """

    anchor: Tensor

    def __init__(
        self,
        distance: Distance = "flat",
        gather: bool = True,
        *,
        delta: float = 1.0,
        detach_scale: bool = True,
        anchor_weight: float = 0.0,
        anchor: float | None = None,
    ):
        super().__init__(distance, gather)
        self.delta = delta
        self.detach_scale = detach_scale
        self.anchor_weight = anchor_weight
        if anchor_weight > 0:  # 0: not known yet
            self.register_buffer("anchor", torch.tensor(anchor or 0.0, dtype=torch.float64))

    def compare(self, d: Tensor, r: Tensor) -> Tensor:
        dp, rp = pairs(d), pairs(r)
        mean_d, mean_r = dp.mean(), rp.mean()
        self.watch(mean_d.detach() == 0, mean_r == 0)
        unit_d = _divisor(mean_d.detach() if self.detach_scale else mean_d)
        loss = F.huber_loss(dp / unit_d, rp / _divisor(mean_r), delta=self.delta)
        if self.anchor_weight > 0:
            loss = loss + self.anchor_weight * self._drift(mean_d)
        return loss.to(d.dtype)

    def _drift(self, mean_d: Tensor) -> Tensor:
        """(log (mean d / anchor))²; remembers the anchor from the first batch with any distance."""
        fresh = (self.anchor == 0) & mean_d.isfinite()
        self.anchor.copy_(torch.where(fresh, mean_d.detach(), self.anchor))
        known = (self.anchor > 0) & (mean_d > 0)
        return torch.where(known, mean_d / _divisor(self.anchor), 1).log().square()


def _divisor(mean: Tensor) -> Tensor:
    """``mean``, or 1 where it is 0 (all points coincide: every ratio is then 0)."""
    return torch.where(mean > 0, mean, 1)


@LOSSES.register("si_huber", help="Huber loss of pair distances divided by their mean")
@schema
class SiHuberConfig(PairLossConfig):
    """Huber loss of mean-normalized pair distances."""

    kind: Literal["si_huber"] = "si_huber"
    delta: Annotated[float, Field(gt=0)] = 1.0
    """Difference (in mean distances) at which the loss turns from quadratic to linear."""
    detach_scale: bool = True
    """Stop the gradient of the mean latent distance, as the source does; the latents' scale may
    then drift."""
    anchor_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of (log(mean latent distance / anchor))², which holds the scale. 0: off."""
    anchor: Annotated[float, Field(gt=0)] | None = None
    """Mean latent distance to hold. None: that of the first batch."""

    def __post_init__(self) -> None:
        if self.anchor is not None and self.anchor_weight == 0:
            raise ValueError("anchor has no effect without anchor_weight: set both, or neither")

    def build(self) -> ScaleInvariantHuberLoss:
        """The loss as a module."""
        return ScaleInvariantHuberLoss(
            self.distance,
            self.gather,
            delta=self.delta,
            detach_scale=self.detach_scale,
            anchor_weight=self.anchor_weight,
            anchor=self.anchor,
        )
