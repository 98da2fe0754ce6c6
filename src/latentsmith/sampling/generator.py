"""A trained generator with all that its samples depend on: backbone, path, normalizer, decoder; and
the alignment heads it was trained with."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.autoencoders.kl import KLAutoencoder, KLAutoencoderConfig
from latentsmith.autoencoders.normalizer import LatentNormalizer
from latentsmith.backbones.base import Backbone, Condition
from latentsmith.backbones.export import load_backbone, save_backbone
from latentsmith.diffusion import align
from latentsmith.diffusion.align import Aligner
from latentsmith.diffusion.denoiser import Denoiser
from latentsmith.diffusion.paths import PATHS, PathConfig
from latentsmith.errors import UserError
from latentsmith.registry import read
from latentsmith.sampling.guidance import GuidanceConfig
from latentsmith.sampling.noise import NoiseSource, starting_noise
from latentsmith.sampling.pairing import Pairing
from latentsmith.sampling.samplers import SamplerConfig
from latentsmith.stores import text_table
from latentsmith.stores.text_table import TextTable
from latentsmith.utils.files import atomic_folder, write_json

FILE_NAME = "generator.json"
BACKBONE = "backbone"
FORMAT = 1
FROM_HERE = "autoencoder_from_here"
"""The autoencoder's folder as seen from the generator's: holds when both are moved together."""


@dataclass(frozen=True)
class GeneratorInfo:
    """What a saved generator says about itself (``generator.json``).

    Attributes:
        path: settings of the path it was trained on.
        pairing: what it belongs to.
        autoencoder: folder of its autoencoder when it was saved.
        classes: names of the classes it is conditioned on; None when unconditional.
        training: samples seen, whether the weights are averaged, data; for stamps.
    """

    path: PathConfig
    pairing: Pairing
    autoencoder: str
    classes: list[str] | None
    training: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {
            "format": FORMAT,
            "path": asdict(self.path),
            "pairing": self.pairing.to_json(),
            "autoencoder": self.autoencoder,
            "classes": self.classes,
            "training": self.training,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "GeneratorInfo":
        """What `to_json` gave. Raises KeyError, TypeError or UserError for anything else."""
        return cls(
            path=read(PATHS, value["path"]),
            pairing=Pairing(**value["pairing"]),
            autoencoder=value["autoencoder"],
            classes=value["classes"],
            training=value["training"],
        )


class LatentGenerator:
    """From seeds and labels to raw latents and images.

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
        autoencoder: KLAutoencoder | None = None,
        texts: TextTable | None = None,
        aligner: Aligner | None = None,
    ):
        info.pairing.check_normalizer(normalizer)
        if autoencoder is not None:
            info.pairing.check(autoencoder)
        self.backbone, self.info, self.normalizer = backbone, info, normalizer
        self.autoencoder, self.texts, self.aligner = autoencoder, texts, aligner
        self.path = info.path.build()

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return next(self.backbone.parameters()).device

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
    ) -> Tensor:
        """Raw latents [N, C, h, w], float32 on the CPU.

        Sample i's noise is a pure function of (seed, indices[i]): neither the batch size nor its
        companions matter (beyond the last digits of the network's arithmetic).

        Args:
            indices: which samples [N], any non-negative numbers.
            labels: class of each [N]; default: ``index mod classes``.
            condition: instead of labels, what each is made from, [N, …] by name (prompts:
                ``text`` [N, L, E], SDXL also ``pooled`` [N, P]).
            noise: where each starts [N, C, h, w], instead of the noise of its index.
            weak: a worse generator of the same latents, for autoguidance.

        Raises:
            UserError: labels for an unconditional generator, or outside the classes.
        """
        where = torch.as_tensor(indices, dtype=torch.int64)
        if condition is None:
            condition = self._condition(self._labels(where, labels))
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
            )
            parts.append(self.normalizer.denormalize(z.float()).cpu())
        self.backbone.train(training)
        return torch.cat(parts)

    def _condition(self, labels: Tensor | None) -> Condition:
        if labels is None:
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
        if self.autoencoder is None:
            raise UserError("this generator was loaded without an autoencoder: it gives latents")
        decoder = self.autoencoder.eval()
        device = next(decoder.parameters()).device
        parts = [decoder.decode(z.to(device)).clamp(0, 1).cpu() for z in latents.split(batch_size)]
        return torch.cat(parts)

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
        autoencoder: KLAutoencoder | Path | str | None = None,
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
        info = _read_info(folder)
        given = info.autoencoder if autoencoder is None else autoencoder
        if not isinstance(given, KLAutoencoder):
            given = _autoencoder(folder, Path(given))
        backbone = load_backbone(folder / BACKBONE).to(device)
        normalizer = LatentNormalizer.load(folder)
        info.pairing.check(given, where=str(folder))
        told = (folder / text_table.FILE_NAME).is_file()
        texts = TextTable.load(folder) if told else None
        aligned = any((folder / name).is_file() for name in (align.SETTINGS, align.WEIGHTS))
        aligner = Aligner.load(folder, backbone).to(device) if aligned else None
        return cls(backbone.eval(), info, normalizer, given.to(device), texts, aligner)


def _read_info(folder: Path) -> GeneratorInfo:
    file = folder / FILE_NAME
    if not file.is_file():
        raise UserError(f"{folder} holds no generator: it has no {FILE_NAME}")
    try:
        value = json.loads(file.read_text())
        info = GeneratorInfo.from_json(value)
        beside = os.path.normpath(folder / value[FROM_HERE])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): save the generator again") from error
    return replace(info, autoencoder=beside) if _is_model(Path(beside)) else info


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _autoencoder(folder: Path, source: Path) -> KLAutoencoder:
    """The autoencoder at ``source``. Raises UserError when it is gone."""
    if not _is_model(source):
        raise UserError(
            f"the autoencoder of {folder} is not at {source}: give the folder it is in now "
            "(autoencoder=…; of latentsmith export, --autoencoder)"
        )
    return KLAutoencoderConfig(source=str(source)).build()
