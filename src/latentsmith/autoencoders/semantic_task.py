"""Training S-VAE and PS-VAE: what `AutoencoderTask` does, and the features must come back too.

    loss = semantic·MSE(reader(z), f₀) + cosine·(1 − cos) + reconstruction terms + kl·KL + …

f₀: features of the frozen, original encoder. In S-VAE the encoder itself is frozen and f₀ is what
was projected; the pixel decoder may learn beside it from latents without a graph (`detach`), so
that PS-VAE does not start from noise. Source: spec/3-ps-vae.md "Stage 1", "Stage 2".
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from latentsmith.autoencoders.base import Posterior
from latentsmith.autoencoders.objective import ObjectiveConfig
from latentsmith.autoencoders.semantic import SemanticAutoencoder, SemanticPosterior
from latentsmith.autoencoders.task import AutoencoderTask
from latentsmith.config.schema import schema
from latentsmith.encoders.base import Encoder
from latentsmith.losses.kl import KLReduction
from latentsmith.training.task import Objective


@schema
class SemanticObjectiveConfig(ObjectiveConfig):
    """An autoencoder's objective with the terms of features."""

    semantic: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the mean squared error of standardized features."""
    cosine: Annotated[float, Field(ge=0)] = 0.0
    """Weight of 1 − cosine between the feature tokens."""
    kl: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the KL divergence from the standard normal."""
    kl_reduction: KLReduction = "mean"
    """``mean`` over all latent elements, which is what 1e-4 was chosen for (the source's formula
    has a sum, its code the mean)."""
    detach: bool = False
    """Pixels teach the pixel decoder alone, not the latent (S-VAE)."""
    encoder_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of the vision encoder over the rest's; 0 keeps it frozen."""
    encoder_trains: str = ""
    """Which of its weights train: a regular expression their names must contain; all if empty
    (``layer\\.(8|9|10|11)\\.`` for the last blocks of a DINOv2-B)."""

    @property
    def has_pixels(self) -> bool:
        """Whether images are decoded in training."""
        return max(self.l1, self.mse, self.perceptual.weight, self.adversarial.weight) > 0


class SemanticTask(AutoencoderTask):
    """See the module's text.

    Args:
        autoencoder: trained in place.
        objective: which parts train, and the terms' weights.
        target: the frozen original, where the encoder trains; its weights stay as they are.
        more: as for `AutoencoderTask`.
    """

    autoencoder: SemanticAutoencoder
    objective: SemanticObjectiveConfig

    def __init__(
        self,
        autoencoder: SemanticAutoencoder,
        objective: SemanticObjectiveConfig,
        *,
        target: Encoder | None = None,
        **more: Any,
    ):
        trains = objective.encoder_lr > 0
        if trains == (target is None):
            raise ValueError("a target encoder goes with encoder_lr > 0, and only with it")
        self._encoder = autoencoder.train_encoder(objective.encoder_trains) if trains else []
        super().__init__(autoencoder, objective, **more)
        self.target = target
        if not objective.has_pixels:
            idle = {id(p) for p in autoencoder.pixels.requires_grad_(False).parameters()}
            self._trainable = [p for p in self._trainable if id(p) not in idle]

    def objectives(self) -> list[Objective]:
        """As `AutoencoderTask.objectives`; the vision encoder has its own learning rate."""
        first, *others = super().objectives()
        slow = [(self.objective.encoder_lr, self._encoder)] if self._encoder else []
        return [Objective(first.name, first.params, slower=slow), *others]

    def _decoded(self, latent: Tensor) -> Tensor | None:
        if not self.objective.has_pixels:
            return None
        return self.autoencoder.decode(latent.detach() if self.objective.detach else latent)

    def _more(
        self, images: Tensor, posterior: Posterior, latent: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Features of the latent against the frozen encoder's."""
        assert isinstance(posterior, SemanticPosterior)
        found = self.autoencoder.decode_features(latent)
        wanted = self._wanted(images, posterior)
        parts = {
            "semantic": F.mse_loss(found, wanted),
            "cosine": 1 - F.cosine_similarity(found, wanted, dim=-1).mean(),
        }
        w = self.objective
        return w.semantic * parts["semantic"] + w.cosine * parts["cosine"], parts

    @torch.no_grad()
    def _wanted(self, images: Tensor, posterior: SemanticPosterior) -> Tensor:
        """Features of the original encoder [B, N, d]."""
        if self.target is None:
            return posterior.features.detach()
        return self.autoencoder.standardized(self.target, images)
