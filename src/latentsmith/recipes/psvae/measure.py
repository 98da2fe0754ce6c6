"""What a latent space keeps and what it tells: one card for each arm."""

from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.semantic import SemanticAutoencoder
from latentsmith.metrics.base import Measurement, Stamp
from latentsmith.metrics.card import LatentCard
from latentsmith.metrics.generation_card import measure_generation
from latentsmith.metrics.shapes_card import measure_attributes
from latentsmith.recipes.psvae.config import Arm, PSVAEConfig
from latentsmith.recipes.psvae.inputs import Inputs
from latentsmith.recipes.psvae.measure_generation import measure_edited, measure_generated
from latentsmith.recipes.psvae.yardsticks import Yardsticks
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.training.team import Team

SHOWN = 32
"""Images kept for the report's grids."""


class Measurer:
    """Measures the autoencoders and generators of one run, on the same held-out images, captions,
    edits and noise."""

    def __init__(self, cfg: PSVAEConfig, inputs: Inputs, team: Team):
        self.cfg, self.inputs, self.team = cfg, inputs, team
        self.yardsticks = Yardsticks(cfg, inputs, team)

    def card(self, generator: LatentGenerator, arm: Arm) -> LatentCard:
        """Everything about one arm."""
        assert generator.autoencoder is not None
        given = self.yardsticks, generator, arm
        card = self._autoencoder(generator.autoencoder, arm)
        card.extend(measure_generated(*given))
        return card.extend(measure_edited(*given)) if self.inputs.edits else card

    @torch.no_grad()
    def _autoencoder(self, autoencoder: Autoencoder, arm: Arm) -> LatentCard:
        """Reconstruction of pixels and features; what a linear probe reads off the latent."""
        card, y = LatentCard(), self.yardsticks
        images, latents, labels = list[Tensor](), list[Tensor](), list[Tensor]()
        for batch in y.held_out():
            images.append(batch["image"])
            latents.append(autoencoder.encode(batch["image"].to(self.team.device)).mode().cpu())
            labels += [batch["label"]] if "label" in batch else []
        stamp = Stamp(data=self.inputs.val.name, count=sum(map(len, images)), detail={"arm": arm})
        self._pixels(card, autoencoder, images, latents, stamp)
        if isinstance(autoencoder, SemanticAutoencoder):
            self._features(card, autoencoder, images, latents, stamp)
        if labels:
            codes = torch.cat([z.mean((2, 3)) for z in latents])
            given = (*self._learned(autoencoder), codes, torch.cat(labels))
            resamples = self.cfg.evaluate.resamples
            card.add("linear_probe", *given, stamp=stamp, label="latent", resamples=resamples)
            card.measurements += list(y.probe)
        return card

    def _pixels(
        self,
        card: LatentCard,
        autoencoder: Autoencoder,
        images: list[Tensor],
        latents: list[Tensor],
        stamp: Stamp,
    ) -> None:
        device, resamples = self.team.device, self.cfg.evaluate.resamples
        decoded = [autoencoder.decode(z.to(device)).clamp(0, 1).cpu() for z in latents]
        recon, original = torch.cat(decoded), torch.cat(images)
        for metric in ("psnr", "ssim"):
            card.add(metric, original, recon, stamp=stamp, resamples=resamples)
        for encoder, reference in self.yardsticks.spaces:
            rows = torch.cat([encoder.vector(x.to(device)).cpu() for x in decoded])
            found = measure_generation(
                rows,
                reference,
                space=reference.space,
                stamp=stamp,
                encoder=encoder.fingerprint(),
                resamples=resamples,
            )
            card.measurements += _of_reconstructions(found, ("fd", "fid"))
        if self.yardsticks.judge is not None:  # whether the decoder or the generator is at fault
            asked = self.yardsticks.shown(torch.arange(len(recon)))
            found = measure_attributes(
                self.yardsticks.judge, recon, *asked, stamp=stamp, resamples=resamples
            )
            card.measurements += _of_reconstructions(found, ("attribute_accuracy",))
        card.figures |= {"images": original[:SHOWN], "reconstructed": recon[:SHOWN]}

    def _features(
        self,
        card: LatentCard,
        autoencoder: SemanticAutoencoder,
        images: list[Tensor],
        latents: list[Tensor],
        stamp: Stamp,
    ) -> None:
        """Features read back from the latent, against the frozen encoder's."""
        device, y = self.team.device, self.yardsticks
        back = torch.cat([autoencoder.decode_features(z.to(device)).cpu() for z in latents])
        wanted = torch.cat(
            [autoencoder.standardized(y.encoder, x.to(device)).cpu() for x in images]
        )
        resamples = self.cfg.evaluate.resamples
        card.add("feature_mse", back, wanted, stamp=stamp, resamples=resamples)
        card.add("token_cosine", back, wanted, stamp=stamp, label="features", resamples=resamples)

    def _learned(self, autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
        """Latents' means over positions [n, C] and labels [n] of the probe's images."""
        codes, labels = [], []
        for batch in self.yardsticks.batches(self.inputs.probe):
            latent = autoencoder.encode(batch["image"].to(self.team.device)).mode()
            codes.append(latent.mean((2, 3)).cpu())
            labels.append(batch["label"])
        return torch.cat(codes), torch.cat(labels)


def _of_reconstructions(found: LatentCard, metrics: tuple[str, ...]) -> list[Measurement]:
    """Measurements of some metrics, under names that say of what."""
    return [replace(m, name=f"{m.name}_reconstructed") for m in found if m.metric in metrics]
