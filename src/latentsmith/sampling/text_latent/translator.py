"""A trained model of texts and latents as its user has it: texts in, latents out, and back.

    folder/
      text_latent.json, .safetensors    the network and its processes
      tokenizer.json                    what token numbers mean
      vector_normalizer.safetensors     the latents' scale
      encoder.json                      what made the latents: settings and fingerprint

The folder is written as a whole or not at all. Latents given and returned are *raw*, as the encoder
makes them; those of another encoder are refused wherever one is at hand to ask.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.text.normalizer import VectorNormalizer
from latentsmith.data.text.tokens import Tokenizer
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.diffusion.text_latent.saved import load_model, save_model
from latentsmith.encoders.text import TEXT_ENCODERS, TextEncoder
from latentsmith.errors import UserError
from latentsmith.registry import read
from latentsmith.sampling.text_latent.latents import one_step
from latentsmith.utils.files import atomic_folder, write_json

ENCODER = "encoder.json"
BATCH = 256
"""Texts looked at at once."""


@dataclass(frozen=True)
class MadeBy:
    """What made the latents.

    Attributes:
        fingerprint: as the latents' store tells it (`StoreManifest.encoder`).
        settings: of the text encoder, with its ``kind``; None where latents came from elsewhere.
    """

    fingerprint: dict[str, Any]
    settings: dict[str, Any] | None = None

    def check(self, encoder: TextEncoder) -> None:
        """Raises UserError unless ``encoder`` is the one."""
        told = {k: v for k, v in self.fingerprint.items() if k != "stored"}
        here = json.loads(json.dumps(encoder.fingerprint()))
        if told != here:
            differ = sorted(k for k in told.keys() | here.keys() if told.get(k) != here.get(k))
            sides = "; ".join(f"{k}: {told.get(k)!r} there, {here.get(k)!r} here" for k in differ)
            raise UserError(
                f"the model was trained on latents of another text encoder ({sides}): its texts "
                "and latents would not belong together"
            )

    def build(self) -> TextEncoder:
        """The encoder itself.

        Raises:
            UserError: it cannot be had, or is another now.
        """
        if self.settings is None:
            raise UserError(
                "the model's latents were imported, and what made them was not told: encode the "
                "texts yourself, or by the model"
            )
        encoder: TextEncoder = read(TEXT_ENCODERS, self.settings).build()
        self.check(encoder)
        return encoder


@dataclass
class Translator:
    """See the module's text.

    Attributes:
        model: in evaluation mode.
        tokenizer, normalizer: of its texts and latents.
        made_by: what made the latents.
        training: how it was trained, for people.
    """

    model: TextLatentModel
    tokenizer: Tokenizer
    normalizer: VectorNormalizer
    made_by: MadeBy
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Write the folder, whole or not at all; replaces what was there."""
        folder = Path(folder)
        with atomic_folder(folder) as tmp:
            save_model(self.model, tmp)
            self.tokenizer.save(tmp)
            self.normalizer.save(tmp)
            told = {"fingerprint": self.made_by.fingerprint, "settings": self.made_by.settings}
            write_json(tmp / ENCODER, told | {"training": self.training})
        return folder

    @classmethod
    def load(
        cls, folder: Path | str, *, encoder: TextEncoder | None = None, device: str = "cpu"
    ) -> "Translator":
        """Read what `save` wrote.

        Args:
            encoder: the text encoder that latents come from here, if known.

        Raises:
            UserError: missing, damaged, or trained on latents of another encoder.
        """
        folder = Path(folder)
        model = load_model(folder)
        try:
            told = json.loads((folder / ENCODER).read_text())
            made_by = MadeBy(told["fingerprint"], told["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / ENCODER} is missing or damaged ({error})") from error
        if encoder is not None:
            made_by.check(encoder)
        model.network.to(device)
        tokenizer, normalizer = Tokenizer.load(folder), VectorNormalizer.load(folder)
        return cls(model, tokenizer, normalizer, made_by, told.get("training", {}))

    @property
    def shape(self) -> tuple[int, int]:
        """(K0, D) of a raw latent."""
        vectors = self.model.network.latent_shape[0]
        return vectors, len(self.normalizer.mean)

    def number(self, texts: Sequence[str]) -> Tensor:
        """Texts → token rows int64 [N, L]. Raises UserError for none, or one that is too long."""
        if not texts:
            raise UserError("no texts: give at least one")
        return self.tokenizer.encode(texts).ids

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Texts without the pieces that `number` has no places for: a model may fill all L
        positions, which leaves none for the EOS that a text ends in when it is read."""
        splitter, most = self.tokenizer.splitter, self.tokenizer.length - 1
        split = splitter.split(texts)
        return [
            text if len(pieces) <= most else splitter.join(pieces[:most])
            for text, pieces in zip(texts, split, strict=True)
        ]

    def normalized(self, latents: Tensor) -> Tensor:
        """Raw latents [N, D] or [N, K0, D] → [N, K0, D'] as the model sees them.

        Raises:
            UserError: another shape, or not finite.
        """
        vectors, width = self.shape
        x = latents[:, None] if latents.ndim == 2 and vectors == 1 else latents
        if x.ndim != 3 or x.shape[1:] != (vectors, width) or not len(x):
            wanted = f"[N, {width}]" if vectors == 1 else f"[N, {vectors}, {width}]"
            raise UserError(f"latents of shape {list(latents.shape)}: the model takes {wanted}")
        if not bool(x.isfinite().all()):
            row = int((~x.isfinite().flatten(1).all(1)).nonzero()[0])
            raise UserError(f"latent {row} is not finite")
        return self.normalizer.normalize(x)

    def raw(self, latents: Tensor) -> Tensor:
        """Normalized latents [N, K0, D'] → as the encoder makes them [N, K0, D]."""
        return self.normalizer.denormalize(latents.cpu())

    def encode(self, texts: Sequence[str], *, draws: int = 1, seed: int = 0) -> Tensor:
        """T2L in one step: texts → raw latents [N, K0, D], float32 on the CPU.

        Args:
            draws: of the noise it starts from; their mean is given.

        Raises:
            UserError: as `number`.
        """
        rng = torch.Generator(self.model.device).manual_seed(seed)
        tokens = self.number(texts).to(self.model.device)
        found = [one_step(self.model, t, rng, draws=draws).latents for t in tokens.split(BATCH)]
        return self.raw(torch.cat(found))
