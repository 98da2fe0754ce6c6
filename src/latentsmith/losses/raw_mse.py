"""``raw_mse``: mean over pairs of (d − r)², as the MMAE paper writes it (arXiv 2603.16568).

Demands equal distances, scale included: latents grow or shrink to the references' scale.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, PairLoss, PairLossConfig
from latentsmith.losses.pairwise import pairs


class RawMSELoss(PairLoss):
    """Mean squared difference of pair distances."""

    def compare(self, d: Tensor, r: Tensor) -> Tensor:
        return F.mse_loss(pairs(d), pairs(r)).to(d.dtype)


@LOSSES.register("raw_mse", help="MSE of unscaled pair distances")
@schema
class RawMSEConfig(PairLossConfig):
    """MSE of unscaled pair distances."""

    kind: Literal["raw_mse"] = "raw_mse"

    def build(self) -> RawMSELoss:
        """The loss as a module."""
        return RawMSELoss(self.distance, self.gather)
