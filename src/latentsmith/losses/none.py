"""``none``: no regularization; the baseline arm of every comparison."""

from typing import Literal

from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.losses.base import LOSSES, PairLoss, PairLossConfig, at_least_float32


class NoLoss(PairLoss):
    """Zero, with zero gradient; looks at no pair, so any batch size will do."""

    def forward(self, latents: Tensor, references: Tensor) -> Tensor:
        """Scalar 0 that hangs on ``latents``, so that ``backward`` works even alone."""
        return at_least_float32(latents.flatten()[:0]).sum()


@LOSSES.register("none", help="no regularization (baseline)")
@schema
class NoneConfig(PairLossConfig):
    """No regularization."""

    reads_vectors = False

    kind: Literal["none"] = "none"

    def build(self) -> NoLoss:
        """The loss as a module."""
        return NoLoss(self.distance, self.gather)
