"""Training an autoencoder, with or without regularizers of its latents.

    loss = l1*L1 + mse*MSE + kl*KL + perceptual*LPIPS + adversarial*GAN + sum_k lambda_k(t)*R_k

R_k: a loss over pairs of samples, EQ-VAE, VA-VAE… (`latentsmith.losses.regularizer`).
Source: spec/1-mm-reg.md "The loss" and "Autoencoders".
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from latentsmith.autoencoders.base import Autoencoder, Posterior
from latentsmith.autoencoders.discriminator import PatchDiscriminator
from latentsmith.autoencoders.objective import ObjectiveConfig
from latentsmith.losses.adversarial import adaptive_weight, discriminator_loss, generator_loss
from latentsmith.losses.perceptual import LPIPS, TRUNKS
from latentsmith.losses.reconstruction import reconstruction_parts
from latentsmith.losses.regularizer import (
    LatentBatch,
    LatentView,
    Place,
    Regularizer,
    RegularizerConfig,
)
from latentsmith.training.gradcache import GradientCache, cache_gradients
from latentsmith.training.task import Batch, Objective, StepContext, Task

REFERENCE = "reference/"
"""Prefix of the batch's columns with cached reference vectors, ``reference/<name>`` [B, D]."""
TOKENS = "tokens/"
"""Prefix of the batch's columns with cached patch tokens, ``tokens/<name>`` [B, N, D]."""

Located = Mapping[str, Callable[[Tensor], Tensor]]
"""Reference name → (images → its vectors [B, D], or its tokens [B, N, D])."""


class AutoencoderTask(Task):
    """Reconstruction objective plus regularizers.

    Args:
        autoencoder: trained in place.
        objective: weights of the reconstruction terms.
        losses: name (of its parts in the log) → regularizer; none for the baseline.
        terms: reference name → its weight in losses over pairs.
        online: reference name → (images → points [B, D]), to place the very images the
            autoencoder sees (random augmentation). Without it the batch carries cached points.
        online_tokens: likewise for patch tokens.
        token_widths: reference name → D of its patch tokens, where a regularizer reads them.
        lpips: required when ``objective.perceptual.weight`` is above 0.

    Raises:
        UserError: a regularizer whose reference has no patch tokens.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        objective: ObjectiveConfig,
        *,
        losses: Mapping[str, RegularizerConfig] | None = None,
        terms: Mapping[str, float] | None = None,
        online: Located | None = None,
        online_tokens: Located | None = None,
        token_widths: Mapping[str, int] | None = None,
        lpips: LPIPS | None = None,
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.objective = objective
        self.lpips = lpips
        self._online, self._online_tokens = dict(online or {}), dict(online_tokens or {})
        self.losses, self.terms = dict(losses or {}), dict(terms or {})
        place = Place(
            latent_channels=autoencoder.latent_channels,
            terms=self.terms,
            token_widths=token_widths or {},
        )
        # a list: a name given by the user may hold dots, a submodule's may not
        self.regularizers = nn.ModuleList(c.regularizer(place) for c in self.losses.values())
        self.discriminator = self._build_discriminator()
        self._trainable = autoencoder.trainable_parameters(objective.train)
        self._cache: GradientCache | None = None
        self._joint_parts: dict[str, Tensor] = {}

    def _build_discriminator(self) -> PatchDiscriminator | None:
        config = self.objective.adversarial
        if config.weight == 0:
            return None
        return PatchDiscriminator(
            self.autoencoder.channels, channels=config.channels, layers=config.layers
        )

    def objectives(self) -> list[Objective]:
        """The autoencoder's, with what the regularizers learn, and the discriminator's when there
        is one."""
        own = [*self._trainable, *self.regularizers.parameters()]
        objectives = [Objective("autoencoder", own)]
        if self.discriminator is not None:
            params = list(self.discriminator.parameters())
            scale = self.objective.adversarial.lr_scale
            objectives.append(Objective("discriminator", params, lr_scale=scale))
        return objectives

    def shard_blocks(self) -> list[nn.Module]:
        """None. Adaptive weights look at gradients within a step."""
        return []

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        """Loss parts of one micro-batch; see the module's formula."""
        if objective == "discriminator":
            return self._discriminator_loss(batch, ctx)
        images = batch["image"]
        posterior = self.autoencoder.encode(images)
        latent = posterior.sample(ctx.noise("posterior"))
        recon = self._decoded(latent)
        judged, parts = self._reconstruction(images, recon)
        parts["kl"] = posterior.kl(self.objective.kl_reduction)
        total = judged + self.objective.kl * parts["kl"]
        more, found = self._more(images, posterior, latent)
        total, parts = total + more, parts | dict(found)
        judging = self.discriminator is not None and self._adversarial_weight(ctx) > 0
        if judging and recon is not None:
            part = self._generator_loss(total, recon, ctx)
            total, parts["adversarial"] = total + part, part
        if self.losses:
            loss, more = self._regularize(posterior, batch, judged, ctx)
            total, parts = total + loss, parts | more
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    # Reconstruction ------------------------------------------------------------------------------

    def _decoded(self, latent: Tensor) -> Tensor | None:
        """Images of latents; None where pixels are not trained."""
        return self.autoencoder.decode(latent)

    def _more(
        self, images: Tensor, posterior: Posterior, latent: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What a subclass adds: its weighted loss, and unweighted parts."""
        return latent.new_zeros(()), {}

    def _reconstruction(
        self, images: Tensor, recon: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted total and unweighted parts, without GAN. Images [B, C, H, W] in [0, 1]."""
        if recon is None:
            return images.new_zeros(()), {}
        w = self.objective
        parts = reconstruction_parts(recon, images)
        del parts["huber"]
        total = w.l1 * parts["l1"] + w.mse * parts["mse"]
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
            seen = [(recon, images)]
            if self.losses:
                view = self._view(posterior, batch, ctx)
                seen += [pair for r in self._regularizers() for pair in r.pictures(view)]
        real = [self.discriminator(image) for _, image in seen]
        fake = [self.discriminator(decoded) for decoded, _ in seen]
        kind = self.objective.adversarial.loss
        losses = [discriminator_loss(r, f, kind) for r, f in zip(real, fake, strict=True)]
        return {
            "loss": torch.stack(losses).mean(),
            "real": real[0].mean().detach(),
            "fake": fake[0].mean().detach(),
        }

    # Regularizers --------------------------------------------------------------------------------

    def _regularizers(self) -> list[Regularizer]:
        return list(self.regularizers)  # type: ignore[arg-type]

    def _named(self, *, joint: bool) -> list[tuple[str, RegularizerConfig, Regularizer]]:
        rows = zip(self.losses.items(), self._regularizers(), strict=True)
        return [(name, config, r) for (name, config), r in rows if r.joint == joint]

    def _latent(self, posterior: Posterior, ctx: StepContext) -> Tensor:
        if self.objective.latent == "mode":
            return posterior.mode()
        return posterior.sample(ctx.noise("pairs"))

    def _vectors(self, batch: Batch) -> dict[str, Tensor]:
        """name → [B, D]: computed on these very images, or the batch's cached columns."""
        if self._online:
            return {name: self._online[name](batch["image"]) for name in self.terms}
        return {name: batch[REFERENCE + name] for name in self.terms}

    def _tokens(self, batch: Batch) -> dict[str, Tensor]:
        """name → [B, N, D], likewise."""
        names = dict.fromkeys(n for config in self.losses.values() for n in config.teachers())
        if self._online_tokens:
            return {name: self._online_tokens[name](batch["image"]) for name in names}
        return {name: batch[TOKENS + name] for name in names}

    def _view(self, posterior: Posterior, batch: Batch, ctx: StepContext) -> LatentView:
        """What regularizers see, without references and the objective's value."""
        latent = self._latent(posterior, ctx)
        last = self.autoencoder.last_encoder_weight()
        step = replace(ctx, rank=0, micro=0)
        smallest = [1 if self.lpips is None else TRUNKS[self.lpips.net].smallest]
        smallest += [] if self.discriminator is None else [self.discriminator.smallest]

        def judge(recon: Tensor, images: Tensor) -> Tensor:
            total, _ = self._reconstruction(images, recon)
            if self.discriminator is not None and self._adversarial_weight(ctx) > 0:
                total = total + self._generator_loss(total, recon, ctx)
            return total

        return LatentView(
            latent,
            {},
            images=batch["image"],
            decode=self.autoencoder.decode,
            reconstruction=judge,
            objective=latent.new_zeros(()),
            step_noise=step.noise,
            index=batch["index"],
            last_weight=last if last.requires_grad else None,
            smallest=max(smallest),
        )

    def _regularize(
        self, posterior: Posterior, batch: Batch, judged: Tensor, ctx: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of all regularizers; name/part → unweighted value."""
        view = self._view(posterior, batch, ctx)
        view = replace(view, objective=judged, tokens=self._tokens(batch))
        total, parts = self._joint(view, batch, ctx)
        for name, config, regularizer in self._named(joint=False):
            loss, found = regularizer(view)
            total = total + config.weight_at(ctx.progress) * loss
            parts |= {f"{name}/{part}": value for part, value in found.items()}
        return total, parts

    def _joint(
        self, view: LatentView, batch: Batch, ctx: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of the losses that reach over the whole batch."""
        if not self._named(joint=True):
            return view.latent.new_zeros(()), {}
        if ctx.micros > 1 and self._cache is not None and torch.is_grad_enabled():
            return self._cache.surrogate(view.latent, ctx.micro), dict(self._joint_parts)
        return self._joint_sum(LatentBatch(view.latent, self._joint_vectors(batch)), ctx)

    def _joint_vectors(self, batch: Batch) -> dict[str, Tensor]:
        wanted = any(config.reads_vectors for config in self.losses.values())
        return self._vectors(batch) if wanted else {}

    def _joint_sum(self, seen: LatentBatch, ctx: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = seen.latent.new_zeros(()), {}
        for name, config, regularizer in self._named(joint=True):
            loss, found = regularizer(seen)
            total = total + config.weight_at(ctx.progress) * loss
            parts |= {f"{name}/{part}": value for part, value in found.items()}
        return total, parts

    def look_ahead(self, objective: str, micros: list[Batch], ctx: StepContext) -> None:
        """Pairs reach across micro-batches: cache the whole batch's gradient at its latents."""
        if objective != "autoencoder" or not self._named(joint=True):
            return
        with torch.no_grad():
            rows = [self._joint_vectors(micro) for micro in micros]
        joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

        def encode(micro: Batch, ctx: StepContext) -> Tensor:
            return self._latent(self.autoencoder.encode(micro["image"]), ctx)

        def loss(latents: Tensor) -> Tensor:
            total, self._joint_parts = self._joint_sum(LatentBatch(latents, joined), ctx)
            return total

        self._cache = cache_gradients(micros, encode, loss, ctx)

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
