"""``moments``: mean and standard deviation of every number.

    (1/D) |mean ẑ − m|² + (1/D) |std ẑ − s|²

m, s of this batch's true latents (``batch``: the sampling noise of both cancels), of all training
latents (``data``), or 0 and 1 (``normal``). The last two compare a few samples with a population:
at 64 samples the noise is 0.016 + 0.033, so earlier predictions are counted in, from a queue.

A mean over what is possible has less spread than what is possible: a good T2L is short of spread
wherever the text does not determine the latent. The term then works against its error.
"""

import warnings
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.errors import UserError
from latentsmith.losses.priors.base import (
    PRIORS,
    Prior,
    PriorConfig,
    PriorInput,
    PriorValue,
    needed,
    paired,
)
from latentsmith.losses.priors.reference import LatentReference

ENOUGH = 256
"""Samples from which on the noise of a mean and a spread is below 0.012."""
STANDARD = 0.05
"""How far (`LatentReference.off_standard`) latents may be from mean 0 and spread 1 to be compared
with a normal."""


class MomentPrior(Prior):
    """Distance of the first two moments; see the module.

    Args:
        mean, std: [D] to compare with; None: this batch's.
        queue: earlier predictions to count in.
        dimension: D.
    """

    target_mean: Tensor | None
    target_std: Tensor | None
    queue: Tensor
    filled: Tensor

    def __init__(self, mean: Tensor | None, std: Tensor | None, queue: int, dimension: int):
        super().__init__()
        self.register_buffer("target_mean", mean, persistent=False)
        self.register_buffer("target_std", std, persistent=False)
        self.register_buffer("queue", torch.zeros(queue, dimension))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, guess: Tensor, seen: PriorInput) -> PriorValue:
        """See `Prior.forward`. Fewer than 2 rows: 0."""
        mean, std = self.target_mean, self.target_std
        if mean is None or std is None:
            own, data = paired(guess, seen)
            mean, std = data.mean(0), data.std(0, correction=0)
        else:
            own = self._with_queue(guess.flatten(1), seen.training)
        if len(own) < 2:
            return PriorValue(guess.sum() * 0, {})
        wide = own.float() if own.dtype.itemsize < 4 else own
        variance = wide.var(0, correction=0)
        # 1e-12: the root's slope is infinite at 0, and a collapsed set would make NaN of it
        loss = (wide.mean(0) - mean).square().mean()
        loss = loss + ((variance + 1e-12).sqrt() - std).square().mean()
        return PriorValue(loss, {})

    def _with_queue(self, guess: Tensor, training: bool) -> Tensor:
        """The predictions and those before them [.., D], gradient to the present ones alone."""
        size, count = len(self.queue), int(self.filled)
        if size == 0:
            if len(guess) < ENOUGH:
                warnings.warn(
                    f"moments of {len(guess)} latents are mostly noise: set prior.queue=1024, "
                    "prior.reference=batch, or a larger batch",
                    stacklevel=2,
                )
            return guess
        before = self.queue[: min(count, size)].clone()
        if training:
            with torch.no_grad():
                newest = guess.detach()[-size:].to(self.queue)
                places = (count + torch.arange(len(newest), device=self.queue.device)) % size
                self.queue[places] = newest
                self.filled += len(newest)
        return torch.cat([before.to(guess), guess])


@PRIORS.register("moments", help="mean and spread of every number of the latents")
@schema
class MomentsConfig(PriorConfig):
    """Mean and spread of every number."""

    kind: Literal["moments"] = "moments"
    reference: Literal["batch", "data", "normal"] = "batch"
    """What to compare with: this batch's true latents (batch), the training's (data), 0 and 1
    (normal; for latents normalized in each number)."""
    queue: Annotated[int, Field(ge=0)] = 1024
    """data, normal: earlier predictions that are counted in."""

    def build(self, reference: LatentReference | None, model: TextLatentModel) -> MomentPrior:
        """The prior. Raises UserError without a reference, or for ``normal`` with latents that
        have not mean 0 and spread 1."""
        dimension = model.network.latent_shape
        size = int(torch.tensor(dimension).prod())
        if self.reference == "batch":
            return MomentPrior(None, None, 0, size)
        found = needed(reference, f"prior.reference={self.reference}")
        if self.reference == "data":
            return MomentPrior(found.mean.clone(), found.std.clone(), self.queue, size)
        if found.off_standard > STANDARD:
            raise UserError(
                f"prior.reference=normal, and the latents have not mean 0 and spread 1 in each "
                f"number (off by {found.off_standard:.2g}, at most {STANDARD}): normalize them "
                "with per_dim or pca_whiten, or set prior.reference=data"
            )
        return MomentPrior(torch.zeros(size), torch.ones(size), self.queue, size)
