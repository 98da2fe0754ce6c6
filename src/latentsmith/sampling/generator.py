"""A trained generator with all that its samples depend on: backbone, path, normalizer, decoder; and
the alignment heads it was trained with."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.base import Backbone, Condition
from latentsmith.backbones.export import load_backbone, save_backbone
from latentsmith.diffusion import align
from latentsmith.diffusion.align import Aligner
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.encoders.text.base import TextEncoder
from latentsmith.errors import UserError
from latentsmith.sampling.generator_info import (
    FILE_NAME,
    FROM_HERE,
    GeneratorInfo,
    is_model,
    read_info,
)
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.noise import NoiseSource, starting_noise
from latentsmith.sampling.prompts import check, read_prompts, text_encoder_of
from latentsmith.sampling.samplers import SamplerConfig
from latentsmith.sampling.samplers.base import Constrain
from latentsmith.stores import text_table
from latentsmith.stores.text_table import TextTable
from latentsmith.utils.files import atomic_folder, write_json

BACKBONE = "backbone"


class LatentGenerator:
    """From seeds and labels or prompts to raw latents and images.

    Args:
        backbone: trained, on the device to use; its weights are not copied.
        info: what it was trained on and belongs to.
        normalizer: of the latents it was trained on.
        autoencoder: decodes; None where only latents are wanted.
        texts: of text-conditional backbones trained on class names: a label's text.
        aligner: heads on the backbone's tokens, where it was trained with alignment. Samples do
            not need them.

    Raises:
        UserError: autoencoder or normalizer is not the one the generator was trained with.
    """

    def __init__(
        self,
        backbone: Backbone,
        info: GeneratorInfo,
        normalizer: LatentNormalizer,
        autoencoder: Autoencoder | None = None,
        texts: TextTable | None = None,
        aligner: Aligner | None = None,
    ):
        info.pairing.check_normalizer(normalizer)
        if autoencoder is not None:
            info.pairing.check(autoencoder)
        self.backbone, self.info, self.normalizer = backbone, info, normalizer
        self.autoencoder, self.texts, self.aligner = autoencoder, texts, aligner
        self.path = info.path.build()
        self._text_encoder: TextEncoder | None = None

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

    def prompt(self, texts: Sequence[str], *, encoder: TextEncoder | None = None) -> Condition:
        """What to make, in words: the ``condition`` of `sample_latents`, on the CPU.

        The text encoder is loaded at the first call and kept. Prompts longer than it reads are cut,
        with a warning.

        Args:
            texts: [N], at least one; an empty text says nothing.
            encoder: the generator's text encoder, where it is loaded already.

        Returns:
            ``text`` [N, L, E], ``mask`` bool [N, L] and, of encoders that pool, ``pooled`` [N, P].

        Raises:
            UserError: the generator reads no texts, or does not say with which encoder; the encoder
                cannot be had, or is another one.
        """
        if "text" not in self.backbone.takes:
            raise UserError(f"{self._without_texts()}: give no prompts")
        kept = self.info.text_encoder
        if encoder is not None and kept is not None:
            check(encoder, kept)
        if encoder is None:
            encoder = self._text_encoder or self._load_text_encoder()
            self._text_encoder = encoder
        return read_prompts(encoder, texts)

    def _load_text_encoder(self) -> TextEncoder:
        if self.info.text_encoder is None:
            raise UserError(
                f"this generator reads texts, and its {FILE_NAME} does not say by which text "
                "encoder (it was saved by an older version): give prompt(texts, encoder=…), or "
                "train and save it again"
            )
        return text_encoder_of(self.info.text_encoder).to(self.device)

    def _without_texts(self) -> str:
        classes = self.info.classes
        if classes is None:
            return "this generator was trained without texts and classes"
        more = " …" if len(classes) > 10 else ""
        return (
            f"this generator was trained on classes and not on texts (labels: "
            f"{', '.join(classes[:10])}{more})"
        )

    def told(
        self, count: int, labels: Tensor | None, condition: Condition | None
    ) -> Condition | None:
        """``condition``, None where ``labels`` are given; where neither is, the one of ``count``
        samples that says nothing of what they show, on the CPU. Raises UserError where the network
        knows none."""
        if condition is not None or labels is not None:
            return condition
        return self.backbone.nothing(count, torch.device("cpu"))

    @torch.no_grad()
    def sample_latents(
        self,
        indices: Sequence[int] | Tensor,
        *,
        sampler: SamplerConfig,
        guidance: GuidanceConfig,
        seed: int = 0,
        labels: Tensor | None = None,
        condition: Condition | None = None,
        noise: Tensor | None = None,
        weak: Denoiser | None = None,
        batch_size: int = 64,
        start: float = 1.0,
        constrain: Callable[[Tensor], Constrain] | None = None,
    ) -> Tensor:
        """Raw latents [N, C, h, w], float32 on the CPU.

        Sample i's noise is a pure function of (seed, indices[i]): neither the batch size nor its
        companions matter (beyond the last digits of the network's arithmetic).

        Args:
            indices: which samples [N], any non-negative numbers.
            labels: class of each [N]; default: ``index mod classes``.
            condition: instead of labels, what each is made from, [N, …] by name (`prompt` gives
                ``text`` [N, L, E], for SDXL also ``pooled`` [N, P]).
            noise: where each starts [N, C, h, w], instead of the noise of its index.
            weak: a worse generator of the same latents, for autoguidance.
            start: time to start at (see `SamplerConfig.sample`); ``noise`` is what is there then.
            constrain: rows int64 [B] of a batch → what is known of their states.

        Raises:
            UserError: labels for an unconditional generator, or outside the classes; neither labels
                nor a condition for one that is told texts.
        """
        where = torch.as_tensor(indices, dtype=torch.int64)
        if condition is None:
            condition = self.of_labels(self._labels(where, labels))
        elif labels is not None:
            raise UserError("labels and a condition were given: one says what the other says")
        condition = self.backbone.complete(condition)
        denoiser = Denoiser(self.backbone, self.path)
        training = self.backbone.training
        self.backbone.eval()
        parts = []
        for rows in torch.arange(len(where)).split(batch_size):
            some = where[rows]
            part = {name: value[rows].to(self.device) for name, value in condition.items()}
            own = noise is None
            z = starting_noise(seed, some, self.backbone.latent_shape) if own else noise[rows]
            z = sampler.sample(
                guidance.bind(denoiser, part, weak),
                z.to(self.device),
                path=self.path,
                noise=NoiseSource(seed, some, device=self.device),
                start=start,
                constrain=None if constrain is None else constrain(rows),
            )
            parts.append(self.normalizer.denormalize(z.float()).cpu())
        self.backbone.train(training)
        return torch.cat(parts)

    def of_labels(self, labels: Tensor | None) -> Condition:
        """The condition of classes int64 [N]: labels, or the classes' texts; {} for None. Raises
        UserError for None where the network is told texts."""
        if labels is None:
            if "text" in self.backbone.takes:
                raise UserError(
                    "this generator makes images from texts, and got none: give prompts "
                    "(condition=generator.prompt([…]); on the command line, --prompt TEXT)"
                )
            return {}
        return {"label": labels} if self.texts is None else self.texts.condition(labels)

    def _labels(self, indices: Tensor, labels: Tensor | None) -> Tensor | None:
        classes = self.info.classes
        if classes is None:
            if labels is not None:
                raise UserError("this generator was trained without classes: give no labels")
            return None
        if labels is None:
            return indices % len(classes)
        labels = torch.as_tensor(labels, dtype=torch.int64)
        if len(labels) != len(indices):
            raise UserError(f"{len(labels)} labels for {len(indices)} samples: give one for each")
        if bool(((labels < 0) | (labels >= len(classes))).any()):
            raise UserError(
                f"labels must lie in 0…{len(classes) - 1}, the classes of this generator "
                f"({', '.join(classes[:10])}{' …' if len(classes) > 10 else ''})"
            )
        return labels

    @torch.no_grad()
    def decode(self, latents: Tensor, *, batch_size: int = 64) -> Tensor:
        """Raw latents [N, C, h, w] → images [N, channels, H, W] in [0, 1], on the CPU.

        Raises UserError without an autoencoder.
        """
        decoder, device = self._coder()
        parts = [decoder.decode(z.to(device)).clamp(0, 1).cpu() for z in latents.split(batch_size)]
        return torch.cat(parts)

    @torch.no_grad()
    def encode(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """Images [N, channels, H, W] in [0, 1] → raw latents [N, C, h, w], the most likely ones,
        float32 on the CPU.

        Raises:
            UserError: no autoencoder, or images of another size, channels or range than it takes.
        """
        encoder, device = self._coder()
        side = self.resolution
        if images.ndim != 4 or tuple(images.shape[2:]) != (side, side):
            raise UserError(
                f"images of shape {list(images.shape)} given to a generator of [N, "
                f"{encoder.channels}, {side}, {side}]: resize or crop them first"
            )
        if bool((images.min() < 0) | (images.max() > 1)):
            raise UserError(
                f"images have values from {float(images.min()):g} to {float(images.max()):g}: give "
                "them in [0, 1]"
            )
        parts = [encoder.encode(x.to(device)).mode().cpu() for x in images.split(batch_size)]
        return torch.cat(parts)

    @property
    def resolution(self) -> int:
        """Side of its images in pixels. Raises UserError without an autoencoder."""
        return self.backbone.latent_shape[1] * self._coder()[0].factor

    def _coder(self) -> tuple[Autoencoder, torch.device]:
        """In evaluation mode, and where it is. Raises UserError when there is none."""
        if self.autoencoder is None:
            raise UserError("this generator was loaded without an autoencoder: it gives latents")
        return self.autoencoder.eval(), next(self.autoencoder.parameters()).device

    def sample(self, indices: Sequence[int] | Tensor, **how: Any) -> Tensor:
        """Images [N, channels, H, W] in [0, 1]; ``how`` as for `sample_latents`."""
        return self.decode(self.sample_latents(indices, **how))

    def save(self, folder: Path | str) -> Path:
        """Write ``backbone/`` (diffusers format), the normalizer, texts, alignment heads and
        ``generator.json``, all or nothing."""
        folder = Path(folder)
        with atomic_folder(folder) as tmp:
            self.write(tmp, os.path.relpath(self.info.autoencoder, folder))
        return folder

    def write(self, folder: Path, from_here: str) -> None:
        """`save` into a folder that is there, beside what it holds.

        Args:
            from_here: the autoencoder's folder as seen from this one, once both are in place.
        """
        save_backbone(self.backbone, folder / BACKBONE)
        self.normalizer.save(folder)
        if self.texts is not None:
            self.texts.save(folder)
        if self.aligner is not None:
            self.aligner.save(folder)
        write_json(folder / FILE_NAME, self.info.to_json() | {FROM_HERE: from_here})

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        autoencoder: Autoencoder | Path | str | None = None,
        device: torch.device | str = "cpu",
    ) -> "LatentGenerator":
        """What `save` wrote, with its autoencoder.

        Args:
            autoencoder: the one to decode with, or its folder; default: the one the generator
                names. Checked against the pairing in any case.

        Raises:
            UserError: nothing there, damaged, the autoencoder is gone, or another one.
        """
        folder = Path(folder)
        info = read_info(folder)
        given = info.autoencoder if autoencoder is None else autoencoder
        if not isinstance(given, Autoencoder):
            given = _autoencoder(folder, Path(given))
        backbone = load_backbone(folder / BACKBONE).to(device)
        normalizer = LatentNormalizer.load(folder)
        info.pairing.check(given, where=str(folder))
        told = (folder / text_table.FILE_NAME).is_file()
        texts = TextTable.load(folder) if told else None
        aligned = any((folder / name).is_file() for name in (align.SETTINGS, align.WEIGHTS))
        aligner = Aligner.load(folder, backbone).to(device) if aligned else None
        return cls(backbone.eval(), info, normalizer, given.to(device), texts, aligner)


def _autoencoder(folder: Path, source: Path) -> Autoencoder:
    """The autoencoder at ``source``. Raises UserError when it is gone."""
    if not is_model(source):
        raise UserError(
            f"the autoencoder of {folder} is not at {source}: give the folder it is in now "
            "(autoencoder=…; of latentsmith export, --autoencoder)"
        )
    return load_autoencoder(source)
