"""What every loss over pairs of samples promises."""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.losses.pairwise import at_least_float32, full_precision, pairwise_distances
from latentsmith.losses.regularizer import LOSSES as LOSSES
from latentsmith.losses.regularizer import Place, Regularizer, RegularizerConfig
from latentsmith.utils.distributed import gather_with_grad, rank

Distance = Literal["flat", "pooled", "tokens"]


class CollapseWarning(UserWarning):
    """Pair distances without spread: the batch says nothing about geometry."""


@schema
class PairLossConfig(RegularizerConfig):
    """Base of all pair loss configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    reads_vectors = True

    distance: Distance = "flat"
    """Distance between two latents [C, H, W]: flat (Euclidean over all numbers), pooled
    (Euclidean after the mean over space) or tokens (mean over positions of the distance at each
    position)."""
    gather: bool = True
    """Form the pairs over the batches of all processes, not each process's own."""

    def build(self) -> "PairLoss":
        """The loss as a module."""
        raise TypeError(f"{type(self).__name__} has no build()")

    def regularizer(self, place: Place) -> Regularizer:
        """The loss against every reference of ``place.terms``, weighted."""
        from latentsmith.losses.hybrid import PairRegularizer

        return PairRegularizer(self.build(), place.terms)


class PairLoss(nn.Module):
    """A loss between the pair distances of latents and those of references.

    Calling it: latents [B, …] (space after channels: [B, C, H, W]), references [B, D_ref] →
    scalar, float32 (float64 for float64 latents) whatever the autocast. No gradient goes into the
    references. Subclasses implement `compare`; only pairs i ≠ j may count in it.

    Args:
        distance: how two latents are compared, see `PairLossConfig.distance`.
        gather: pairs over the batches of all processes.

    Attributes:
        collapses: calls so far whose distances had no spread (loss without gradient).
    """

    def __init__(self, distance: Distance = "flat", gather: bool = True):
        super().__init__()
        self.distance: Distance = distance
        self.gather = gather
        self.collapses = 0

    def forward(self, latents: Tensor, references: Tensor) -> Tensor:
        """Scalar loss. Raises UserError for fewer than two samples, ValueError for batches that
        do not match."""
        if len(latents) != len(references):
            raise ValueError(f"{len(latents)} latents against {len(references)} references")
        with full_precision(latents):
            d = self.latent_distances(latents)
            return self.compare(d, self.reference_distances(references).to(d.dtype))

    def compare(self, d: Tensor, r: Tensor) -> Tensor:
        """Loss from latent distances d [B, B] and reference distances r [B, B], both symmetric
        with zero diagonal."""
        raise TypeError(f"{type(self).__name__} compares nothing: add compare()")

    def latent_distances(self, latents: Tensor) -> Tensor:
        """[B, …] → [B_global, B_global], differentiable."""
        # cast before the gather: its backward sums gradients, which half precision would round
        return pairwise_distances(points(self._global(at_least_float32(latents)), self.distance))

    @torch.no_grad()
    def reference_distances(self, references: Tensor) -> Tensor:
        """[B, D_ref] → [B_global, B_global], without gradient."""
        return pairwise_distances(points(self._global(at_least_float32(references)), "flat"))

    def _global(self, x: Tensor) -> Tensor:
        x = gather_with_grad(x) if self.gather else x
        if len(x) < 2:
            raise UserError(
                f"a loss over pairs of samples got a batch of {len(x)}: it needs at least 2, and "
                "64 or more to be a good estimate. Raise the batch size (micro-batches keep the "
                "memory low), or choose loss=none."
            )
        return x

    def watch(self, latents_flat: Tensor, references_flat: Tensor) -> None:
        """Count, and at the 1st, 10th, 100th… time report, distances without spread.

        Args:
            latents_flat, references_flat: boolean scalars, true when that side has no spread.
        """
        flat = torch.stack((latents_flat, references_flat)).tolist()
        if not any(flat):
            return
        self.collapses += 1
        if rank() == 0 and str(self.collapses).strip("0") == "1":
            side = " and ".join(
                s for s, f in zip(("latents", "references"), flat, strict=True) if f
            )
            warnings.warn(
                f"the distances between the {side} of a batch are all equal (collapse, a constant, "
                f"or a batch of two): {type(self).__name__} has no useful gradient there. "
                f"Batches so far: {self.collapses}.",
                CollapseWarning,
                stacklevel=2,
            )


def points(x: Tensor, distance: Distance) -> Tensor:
    """Vectors to compare: [B, …] → [S, B, D], whose distances are averaged over S.

    ``flat``: S = 1, D all numbers of a sample. ``pooled``: S = 1, D = C. ``tokens``: S positions,
    D = C. Raises UserError when there is no space to pool or to walk over.
    """
    if distance == "flat":
        return x.flatten(1)[None]
    if x.ndim < 3:
        raise UserError(
            f"loss.distance={distance} needs latents [B, C, H, W], these are {list(x.shape)}. "
            "Use loss.distance=flat."
        )
    tokens = x.flatten(2)  # [B, C, S]
    return tokens.mean(2)[None] if distance == "pooled" else tokens.permute(2, 0, 1)
