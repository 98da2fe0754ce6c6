"""The training task of both arms: an autoencoder, with or without a loss over pairs of samples.

    loss = l1*L1 + mse*MSE + kl*KL + perceptual*LPIPS + adversarial*GAN + lambda(t)*L_pairs(Z, R)

Source: spec/1-mm-reg.md "The loss" and "Autoencoders".
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.autoencoders.discriminator import PatchDiscriminator
from latentsmith.autoencoders.kl import KLAutoencoder, Posterior
from latentsmith.losses.adversarial import adaptive_weight, discriminator_loss, generator_loss
from latentsmith.losses.base import PairLossConfig
from latentsmith.losses.hybrid import HybridPairLoss
from latentsmith.losses.perceptual import LPIPS
from latentsmith.losses.reconstruction import reconstruction_parts
from latentsmith.recipes.mmreg.config import ObjectiveConfig
from latentsmith.training.gradcache import GradientCache, cache_gradients
from latentsmith.training.task import Batch, Objective, StepContext, Task

REFERENCE = "reference/"
"""Prefix of the batch's columns with cached reference vectors, ``reference/<name>`` [B, D]."""


class AutoencoderTask(Task):
    """Reconstruction objective plus an optional loss over pairs.

    Args:
        autoencoder: trained in place.
        objective: weights of the reconstruction terms.
        pair_loss: None for the baseline.
        terms: reference name → its weight in the pairwise loss.
        online: reference name → (images → points [B, D]), to place the very images the
            autoencoder sees (random augmentation). Without it the batch carries cached points.
        lpips: required when ``objective.perceptual.weight`` is above 0.
    """

    def __init__(
        self,
        autoencoder: KLAutoencoder,
        objective: ObjectiveConfig,
        *,
        pair_loss: PairLossConfig | None = None,
        terms: Mapping[str, float] | None = None,
        online: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        lpips: LPIPS | None = None,
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.objective = objective
        self.lpips = lpips
        self._online = dict(online or {})
        self.pair_config = pair_loss
        self.pairs = None if pair_loss is None else HybridPairLoss(pair_loss.build(), terms or {})
        self.discriminator = self._build_discriminator()
        self._trainable = autoencoder.trainable_parameters(objective.train)
        self._cache: GradientCache | None = None

    def _build_discriminator(self) -> PatchDiscriminator | None:
        config = self.objective.adversarial
        if config.weight == 0:
            return None
        return PatchDiscriminator(
            self.autoencoder.channels, channels=config.channels, layers=config.layers
        )

    def objectives(self) -> list[Objective]:
        """The autoencoder's, and the discriminator's when there is one."""
        objectives = [Objective("autoencoder", self._trainable)]
        if self.discriminator is not None:
            params = list(self.discriminator.parameters())
            scale = self.objective.adversarial.lr_scale
            objectives.append(Objective("discriminator", params, lr_scale=scale))
        return objectives

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss parts of one micro-batch; see the module's formula."""
        if objective == "discriminator":
            return self._discriminator_loss(batch, ctx)
        images = batch["image"]
        posterior = self.autoencoder.encode(images)
        recon = self.autoencoder.decode(posterior.sample(ctx.noise("posterior")))
        total, parts = self._reconstruction(images, recon, posterior)
        if self.discriminator is not None and self._adversarial_weight(ctx) > 0:
            part = self._generator_loss(total, recon, ctx)
            total, parts["adversarial"] = total + part, part
        if self.pairs is not None and self.pair_config is not None:
            loss, pair_parts = self._pair_loss(posterior, batch, ctx)
            total = total + self.pair_config.weight_at(ctx.progress) * loss
            parts |= {f"pairs/{name}": part for name, part in pair_parts.items()}
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    # Reconstruction ------------------------------------------------------------------------------

    def _reconstruction(
        self, images: Tensor, recon: Tensor, posterior: Posterior
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted total and unweighted parts. Images [B, C, H, W] in [0, 1]."""
        w = self.objective
        parts = reconstruction_parts(recon, images)
        del parts["huber"]
        parts["kl"] = posterior.kl(w.kl_reduction)
        total = w.l1 * parts["l1"] + w.mse * parts["mse"] + w.kl * parts["kl"]
        if self.lpips is not None:
            parts["perceptual"] = self.lpips(recon, images).mean()
            total = total + w.perceptual.weight * parts["perceptual"]
        return total, parts

    def _adversarial_weight(self, ctx: StepContext) -> float:
        config = self.objective.adversarial
        return config.weight if ctx.samples_seen >= config.starts_at else 0.0

    def _generator_loss(self, reconstruction: Tensor, recon: Tensor, ctx: StepContext) -> Tensor:
        assert self.discriminator is not None
        config = self.objective.adversarial
        loss = generator_loss(self.discriminator(recon), config.loss)
        weight = self._adversarial_weight(ctx)
        last = self.autoencoder.last_decoder_weight()
        if config.adaptive and last.requires_grad and torch.is_grad_enabled():
            weight = weight * adaptive_weight(reconstruction, loss, last)
        return weight * loss

    def _discriminator_loss(self, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        assert self.discriminator is not None
        images = batch["image"]
        with torch.no_grad():
            posterior = self.autoencoder.encode(images)
            recon = self.autoencoder.decode(posterior.sample(ctx.noise("posterior")))
        real, fake = self.discriminator(images), self.discriminator(recon)
        loss = discriminator_loss(real, fake, self.objective.adversarial.loss)
        return {"loss": loss, "real": real.mean().detach(), "fake": fake.mean().detach()}

    # Pairs ---------------------------------------------------------------------------------------

    def _latent(self, posterior: Posterior, ctx: StepContext) -> Tensor:
        if self.objective.latent == "mode":
            return posterior.mode()
        return posterior.sample(ctx.noise("pairs"))

    def _reference_vectors(self, batch: Batch) -> dict[str, Tensor]:
        """name → [B, D]: computed on these very images, or the batch's cached columns."""
        assert self.pairs is not None
        if self._online:
            return {name: self._online[name](batch["image"]) for name in self.pairs.names}
        return {n: batch[REFERENCE + n] for n in self.pairs.names}

    def _pair_loss(
        self, posterior: Posterior, batch: Batch, ctx: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.pairs is not None
        latent = self._latent(posterior, ctx)
        if ctx.micros > 1 and self._cache is not None and torch.is_grad_enabled():
            return self._cache.surrogate(latent, ctx.micro), {"all": self._cache.loss}
        return self.pairs(latent, self._reference_vectors(batch))

    def look_ahead(self, objective: str, micros: list[Batch], ctx: StepContext) -> None:
        """Pairs reach across micro-batches: cache the whole batch's gradient at its latents."""
        if objective != "autoencoder" or self.pairs is None:
            return
        pairs = self.pairs
        with torch.no_grad():
            rows = [self._reference_vectors(micro) for micro in micros]
        joined = {name: torch.cat([row[name] for row in rows]) for name in pairs.names}

        def encode(micro: Batch, ctx: StepContext) -> Tensor:
            return self._latent(self.autoencoder.encode(micro["image"]), ctx)

        self._cache = cache_gradients(micros, encode, lambda z: pairs(z, joined)[0], ctx)

    # Looking at it -------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_grid(self, batch: Batch, ctx: StepContext) -> Tensor:
        """Images over their reconstructions [2n, C, H, W]."""
        images = batch["image"][:8]
        recon = self.autoencoder.decode(self.autoencoder.encode(images).mode())
        return torch.cat([images, recon.clamp(0, 1)])

    def save_pretrained(self, folder: Path) -> None:
        """The autoencoder in diffusers format; its normalizer must have been measured."""
        self.autoencoder.save_pretrained(folder)
