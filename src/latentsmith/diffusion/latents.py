"""From a batch of a latents store to what a generator is trained on."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from latentsmith.autoencoders.normalizer import Latent, LatentNormalizer, check_scale
from latentsmith.errors import UserError
from latentsmith.training.task import Batch

FLIPPED = "_flipped"
"""What the names of a store's mirrored copies end in."""

SURE = 64
"""Samples that give the standard deviation to about a tenth; fewer are judged more mildly."""


class LatentInput:
    """Raw latents of a batch, drawn, mirrored and normalized on the device they are on.

    Args:
        normalizer: of the encoder that made them.
        latent: ``sample`` draws from the posterior (the batch has ``mean`` and ``logvar``),
            ``mode`` takes its mean (or the batch's ``latent``).
        flip: use mirrored copies where the batch has them.
    """

    def __init__(self, normalizer: LatentNormalizer, latent: Latent, flip: bool):
        self.normalizer, self.latent, self.flip = normalizer, latent, flip
        self._checked = False

    def flips(self, batch: Batch, draw: Callable[[str], torch.Generator]) -> Tensor | None:
        """Which samples are taken mirrored, bool [B]; None when there are no mirrored copies."""
        name = "mean" if "mean" in batch else "latent"
        if not self.flip or name + FLIPPED not in batch:
            return None
        rng = draw("flip")
        return torch.rand(len(batch[name]), generator=rng, device=rng.device) < 0.5

    def __call__(
        self, batch: Batch, draw: Callable[[str], torch.Generator], flipped: Tensor | None
    ) -> Tensor:
        """Normalized latents float32 [B, C, H, W].

        Args:
            batch: ``mean`` and ``logvar``, or ``latent``, each perhaps with a mirrored copy.
            draw: name → generator, `StepContext.noise`.
            flipped: which samples to mirror [B].

        Raises:
            UserError: latents that are not there, and, at the first batch, of the wrong scale
                (not where the normalizer is a published model's).
        """
        latents = self._normalized(self._raw(batch, draw, flipped))
        if not (self._checked or self.normalizer.stated):
            check_scale(latents, tolerance=0.2 * max(1.0, (SURE / len(latents)) ** 0.5))
            self._checked = True
        return latents

    def mode(self, batch: Batch, flipped: Tensor | None) -> Tensor:
        """Normalized posterior means, or the batch's ``latent``, float32 [B, C, H, W]: what there
        is to know of an image that is given, not learned. Arguments and errors as of a call."""
        return self._normalized(_either(batch, _mode_of(batch), flipped))

    def _normalized(self, raw: Tensor) -> Tensor:
        if self.normalizer.mean.device != raw.device:  # once: a copy for each batch would wait
            self.normalizer = replace(
                self.normalizer,
                mean=self.normalizer.mean.to(raw),
                std=self.normalizer.std.to(raw),
            )
        return self.normalizer.normalize(raw)

    def _raw(
        self, batch: Batch, draw: Callable[[str], torch.Generator], flipped: Tensor | None
    ) -> Tensor:
        name = _mode_of(batch)
        if self.latent == "mode":
            return _either(batch, name, flipped)
        if "mean" not in batch or "logvar" not in batch:
            raise UserError(
                "latent=sample draws from the posterior, and the latents store does not hold its "
                "moments ('mean' and 'logvar'): use latent=mode, or cache the moments"
            )
        mean, logvar = _either(batch, "mean", flipped), _either(batch, "logvar", flipped)
        rng = draw("posterior")
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return mean + (0.5 * logvar).exp() * noise


def _mode_of(batch: Batch) -> str:
    """The field with one latent for each image. Raises UserError when there is none."""
    if "mean" not in batch and "latent" not in batch:
        raise UserError(
            f"the batch holds {', '.join(sorted(batch))}, and no latents: 'mean' and 'logvar', "
            "or 'latent' (`latentsmith cache latents`)"
        )
    return "mean" if "mean" in batch else "latent"


def _either(batch: Batch, name: str, flipped: Tensor | None) -> Tensor:
    """A field [B, …] as float32, mirrored where ``flipped`` [B] says so."""
    value = batch[name].float()
    if flipped is None:
        return value
    where = flipped.view(-1, *[1] * (value.ndim - 1))
    return torch.where(where, batch[name + FLIPPED].float(), value)
