"""``sliced_w2``: sliced Wasserstein distance in the latents' main directions.

    mean over directions θ of  (1/n) Σ_i (sorted θ·ẑ − sorted θ·z)²

(Bonneel et al. 2015; Deshpande et al. 2018, arXiv 1803.11188). Directions lie in the first r
principal components; beside the value goes the 0.95 quantile of what it is by chance.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
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


class SlicedW2Prior(Prior):
    """Squared sliced W2 in the main directions. ``which`` true latents, how many ``directions``."""

    def __init__(self, reference: LatentReference, which: Against, directions: int):
        super().__init__()
        self.reference, self.directions = reference, directions
        self.which: Against = which

    def forward(self, guess: Tensor, seen: PriorInput) -> PriorValue:
        """See `Prior.forward`. Fewer than 2 rows: 0. Parts: ``prior_null``."""
        own, data = against(guess, seen, self.which, self.reference, "reference")
        if len(own) < 2:
            return PriorValue(guess.sum() * 0, {})
        own, data = (self.reference.project(x.float()) for x in (own, data))
        rng = seen.noise("directions")
        theta = torch.randn(own.shape[1], self.directions, generator=rng, device=rng.device)
        theta = theta / theta.norm(dim=0)
        a, b = own @ theta, data @ theta  # [n, directions]
        both = torch.cat([a, b]).detach()

        def dealt(order: Tensor) -> Tensor:
            first, second = both[order].chunk(2)
            return squared_w2(first, second)

        null = null_quantile(dealt, len(both), seen.noise("deals"))
        return PriorValue(squared_w2(a, b), {"prior_null": null})


def squared_w2(a: Tensor, b: Tensor) -> Tensor:
    """Squared Wasserstein-2 distance of equally many points on lines, mean over lines: [n, P],
    [n, P] → scalar."""
    return (a.sort(0).values - b.sort(0).values).square().mean()


@PRIORS.register("sliced_w2", help="sliced Wasserstein distance in the latents' main directions")
@schema
class SlicedW2Config(PriorConfig):
    """Sliced Wasserstein distance."""

    kind: Literal["sliced_w2"] = "sliced_w2"
    reference: Against = "batch"
    """True latents to compare with: this batch's (batch) or any of the training's (data)."""
    directions: Annotated[int, Field(ge=1)] = 128
    """Random directions of a step."""

    def build(self, reference: LatentReference | None, model: TextLatentModel) -> SlicedW2Prior:
        """The prior. Raises UserError without a reference."""
        return SlicedW2Prior(needed(reference, "prior=sliced_w2"), self.reference, self.directions)
