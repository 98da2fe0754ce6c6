"""Several references at once: L = Σ_k λ_k · loss_k(Z, R_k), for example DINOv2 and pixel PCA."""

from collections.abc import Mapping

from torch import Tensor, nn

from latentsmith.errors import UserError, nearest
from latentsmith.losses.base import PairLoss
from latentsmith.losses.none import NoLoss
from latentsmith.losses.pairwise import at_least_float32, full_precision
from latentsmith.losses.regularizer import LatentBatch, Regularizer


class HybridPairLoss(nn.Module):
    """Weighted sum of pair losses against named references.

    Latent distances are computed (and gathered) once for all references that use the same kind of
    distance.

    Args:
        losses: one loss for all references, or one for each name.
        weights: λ for each name, ≥ 0.
    """

    def __init__(self, losses: PairLoss | Mapping[str, PairLoss], weights: Mapping[str, float]):
        super().__init__()
        if isinstance(losses, PairLoss):
            losses = dict.fromkeys(weights, losses)
        _same_names("losses", losses, "weights", weights)
        self.names = list(weights)
        self.weights = dict(weights)
        # a list, because a module's name may not hold the dots and slashes of model ids
        self.losses = nn.ModuleList(losses[name] for name in self.names)

    def forward(
        self, latents: Tensor, references: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total and parts.

        Args:
            latents: [B, …].
            references: name → [B, D_k]; exactly the names of the weights.

        Returns:
            Σ_k λ_k · loss_k, and each loss_k unweighted and detached, for the log.
        """
        _same_names("references", references, "weights", self.weights)
        total = at_least_float32(latents.flatten()[:0]).sum()  # 0 that hangs on the latents
        parts: dict[str, Tensor] = {}
        shared: dict[tuple[str, bool], Tensor] = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            assert isinstance(loss, PairLoss)
            part = self._part(loss, latents, references[name], shared)
            total = total + self.weights[name] * part
            parts[name] = part.detach()
        return total, parts

    def _part(
        self,
        loss: PairLoss,
        latents: Tensor,
        references: Tensor,
        shared: dict[tuple[str, bool], Tensor],
    ) -> Tensor:
        if isinstance(loss, NoLoss):
            return loss(latents, references)
        if len(latents) != len(references):
            raise ValueError(f"{len(latents)} latents against {len(references)} references")
        with full_precision(latents):
            key = (loss.distance, loss.gather)
            if key not in shared:
                shared[key] = loss.latent_distances(latents)
            d = shared[key]
            return loss.compare(d, loss.reference_distances(references).to(d.dtype))


class PairRegularizer(Regularizer):
    """A pair loss against weighted references, as a term of an autoencoder's objective."""

    joint = True

    def __init__(self, loss: PairLoss, terms: Mapping[str, float]):
        super().__init__()
        self.pairs = HybridPairLoss(loss, terms)

    def forward(self, view: LatentBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum over the references, and each one's loss."""
        return self.pairs(view.latent, view.vectors)


def _same_names(what: str, a: Mapping[str, object], other: str, b: Mapping[str, object]) -> None:
    for name in [*a, *b]:
        if name not in a or name not in b:
            where, lacks, known = (what, other, b) if name in a else (other, what, a)
            raise UserError(f"{where} name {name!r}, {lacks} do not. {nearest(name, known)}")
