"""``mmd``: maximum mean discrepancy in the latents' main directions, unbiased.

    E k(ẑ, ẑ') + E k(z, z') − 2 E k(ẑ, z)    over pairs of different samples

(Gretton et al. 2012, eq. 3). k is the mean of an inverse multiquadric and of five Gaussians around
the median distance. Unbiased: 0 on average for equal distributions, so sometimes negative. Beside
it goes the 0.95 quantile of what it is by chance.
"""

from typing import Literal

import torch
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.losses.priors.base import (
    PRIORS,
    Against,
    Prior,
    PriorConfig,
    PriorInput,
    PriorValue,
    against,
    needed,
)
from latentsmith.losses.priors.null import null_quantile
from latentsmith.losses.priors.reference import LatentReference

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the Gaussians' squared widths, in median squared distances."""


class MMDPrior(Prior):
    """Unbiased squared MMD in the main directions. ``which`` true latents to compare with."""

    def __init__(self, reference: LatentReference, which: Against):
        super().__init__()
        self.reference = reference
        self.which: Against = which

    def forward(self, guess: Tensor, seen: PriorInput) -> PriorValue:
        """See `Prior.forward`. Fewer than 2 rows: 0. Parts: ``prior_null``."""
        own, data = against(guess, seen, self.which, self.reference, "reference")
        if len(own) < 2:
            return PriorValue(guess.sum() * 0, {})
        own, data = (self.reference.project(x.float()) for x in (own, data))
        k = kernel(torch.cat([own, data]))
        fixed = k.detach()

        def dealt(order: Tensor) -> Tensor:
            return unbiased_mmd(fixed[order][:, order])

        null = null_quantile(dealt, len(k), seen.noise("deals"))
        return PriorValue(unbiased_mmd(k), {"prior_null": null})


def kernel(points: Tensor) -> Tensor:
    """k of all pairs of points [N, r] → [N, N]; widths follow from them without gradient."""
    squared = (points[:, None] - points[None]).square().sum(-1)
    n = len(points)
    above = torch.triu_indices(n, n, offset=1, device=points.device)
    middle = squared.detach()[above[0], above[1]].median().clamp(min=1e-12)
    parts = [(-squared / (2 * s * middle)).exp() for s in SCALES]
    return (sum(parts) + middle / (middle + squared)) / (len(parts) + 1)


def unbiased_mmd(k: Tensor) -> Tensor:
    """Squared MMD of the first half of the points against the second, from k [2n, 2n]."""
    n = len(k) // 2
    own, other, cross = k[:n, :n], k[n:, n:], k[:n, n:]
    pairs = n * (n - 1)
    within = (own.sum() - own.trace() + other.sum() - other.trace()) / pairs
    return within - 2 * (cross.sum() - cross.trace()) / pairs


@PRIORS.register("mmd", help="maximum mean discrepancy in the latents' main directions")
@schema
class MMDConfig(PriorConfig):
    """Maximum mean discrepancy."""

    kind: Literal["mmd"] = "mmd"
    reference: Against = "batch"
    """True latents to compare with: this batch's (batch) or any of the training's (data)."""

    def build(self, reference: LatentReference | None, model: TextLatentModel) -> MMDPrior:
        """The prior. Raises UserError without a reference."""
        return MMDPrior(needed(reference, "prior=mmd"), self.reference)
