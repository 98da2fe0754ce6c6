"""Models, samples, latents and reference vectors of a page's arms, each made when first asked for.

One request computes at a time (`Bench.lock`): models change their state while they work, and two
requests at once would only be slower.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.load import open_autoencoder
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import TransformConfig
from latentsmith.encoders.base import EncoderConfig
from latentsmith.encoders.spaces import ReferenceSpaces
from latentsmith.encoders.text.base import TextEncoder
from latentsmith.errors import UserError
from latentsmith.explore.arms import Arm, Kind, find_arms
from latentsmith.explore.samples import Images, Samples, images_of, texts_of
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.text_latent.translator import Translator
from latentsmith.training.team import Team
from latentsmith.utils.cache import cache_root

log = logging.getLogger(__name__)

PIXELS = "pixels"
"""The reference space every run of images has."""
TEXT_ENCODER = "text encoder"
"""The reference space of texts: what made the latents that the model learned from."""
T = TypeVar("T")


class Bench:
    """See the module's text.

    Args:
        folders: the runs.
        count: samples that all arms look at, at most.

    Raises:
        UserError: see `find_arms`; no model can be loaded, or the data cannot be had.
    """

    def __init__(self, folders: Sequence[Path], *, count: int):
        self.lock = threading.RLock()
        self._team = Team.join(several_objectives=False)
        self._kept: dict[tuple[str, str], Any] = {}
        self.arms = self._loaded(find_arms(folders))
        self.samples = self._samples(count)

    @property
    def kind(self) -> Kind:
        """What the samples are."""
        kinds: list[Kind] = [arm.kind for arm in self.arms if arm.kind != "none"]
        return kinds[0] if kinds else "none"

    @property
    def device(self) -> torch.device:
        """Where models work."""
        return self._team.device

    def arm(self, key: str) -> Arm:
        """Raises UserError for none of that key."""
        found = next((arm for arm in self.arms if arm.key == key), None)
        if found is None:
            raise UserError(f"no arm {key!r} on this page: load it again")
        return found

    def _loaded(self, arms: list[Arm]) -> list[Arm]:
        """The arms with what of them can be loaded; the log says what is left out. Raises UserError
        when nothing can."""
        found, refused = list[Arm](), list[UserError]()
        parts = {
            "translator": self.translator, "model": self.autoencoder, "generator": self.generator,
        }  # fmt: skip
        for arm in arms:
            there = arm
            for name, load in parts.items():
                if getattr(there, name) is None:
                    continue
                try:
                    load(there)
                except UserError as error:
                    log.warning("%s %s is left out: %s", arm.run_name, arm.stage, error)
                    refused.append(error)
                    # a generator is of no use without its autoencoder
                    there = replace(there, generator=None, **{name: None})
            if there.kind != "none" or arm.kind == "none":
                found.append(there)
        if not found:
            raise refused[0]
        return found

    def _samples(self, count: int) -> Samples:
        make = texts_of if self.kind == "texts" else images_of
        known = [arm for arm in self.arms if arm.kind != "none"]
        found = (make(arm.run.config, count) for arm in known)
        return next((samples for samples in found if samples is not None), Samples())

    # Models ---------------------------------------------------------------------------------------

    def autoencoder(self, arm: Arm) -> Autoencoder:
        """In evaluation mode. Raises UserError when the arm has none, or it cannot be had."""
        if arm.model is None:
            raise UserError(f"{arm.run_name} has no autoencoder")
        source = arm.model
        return self._once("autoencoder", source, lambda: self._opened(source))

    def _opened(self, source: str) -> Autoencoder:
        found = open_autoencoder(KLAutoencoderConfig(source=source))
        return found.to(self.device).requires_grad_(False).eval()

    def generator(self, arm: Arm) -> LatentGenerator:
        """With its autoencoder. Raises UserError when the arm has none, or it cannot be had."""
        folder = arm.generator
        if folder is None:
            raise UserError(f"{arm.run_name} has no generator in the latents of {arm.stage}")
        return self._once(
            "generator", str(folder),
            lambda: LatentGenerator.load(
                folder, autoencoder=self.autoencoder(arm), device=self.device
            ),
        )  # fmt: skip

    def translator(self, arm: Arm) -> Translator:
        """Raises UserError when the arm has none, or it cannot be had."""
        folder = arm.translator
        if folder is None:
            raise UserError(f"{arm.run_name} has no model of texts and latents")
        return self._once(
            "translator", str(folder), lambda: Translator.load(folder, device=str(self.device))
        )

    # What they see --------------------------------------------------------------------------------

    def transform(self, arm: Arm) -> TransformConfig:
        """From any image to what the arm takes, without chance."""
        own = getattr(arm.run.config, "transform", None)
        if own is not None:
            return own.deterministic()
        channels = 1 if self.autoencoder(arm).channels == 1 else 3
        return TransformConfig(resolution=self.generator(arm).resolution, channels=channels)

    def seen(self, arm: Arm) -> Tensor:
        """The samples as the arm sees them, [N, C, R, R] in [0, 1]."""
        return self._once("seen", _of_run(arm), lambda: torch.cat(list(self._batches(arm))))

    def _batches(self, arm: Arm) -> Iterator[Tensor]:
        assert isinstance(self.samples, Images)
        transform = self.transform(arm).build()
        loader = Loader(
            self.samples.dataset, transform, batch_size=64, seed=0, shuffle=False, corrupt_budget=0
        )
        return (batch["image"] for batch in loader.epoch())

    @torch.no_grad()
    def encode(self, arm: Arm, images: Tensor) -> Tensor:
        """Raw latents [N, C, h, w] of images [N, C, R, R], the most likely ones, on the CPU."""
        autoencoder = self.autoencoder(arm)
        parts = [autoencoder.encode(x.to(self.device)).mode().cpu() for x in images.split(64)]
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, arm: Arm, latents: Tensor) -> Tensor:
        """Raw latents [N, C, h, w] → images [N, C, R, R] in [0, 1], on the CPU."""
        autoencoder = self.autoencoder(arm)
        parts = [autoencoder.decode(z.to(self.device)).clamp(0, 1).cpu() for z in latents.split(64)]
        return torch.cat(parts)

    @torch.no_grad()
    def latents(self, arm: Arm) -> Tensor:
        """Raw latents of all samples, [N, …] on the CPU."""
        if arm.kind == "texts":
            read = self.translator(arm)
            return self._once("latents", arm.key, lambda: read.encode(self.samples.captions))
        return self._once("latents", arm.key, lambda: self.encode(arm, self.seen(arm)))

    # Reference spaces -----------------------------------------------------------------------------

    def references(self, arm: Arm) -> list[str]:
        """Names of the spaces the arm's latents can be compared with."""
        if arm.kind == "texts":
            told = self.translator(arm).made_by.settings is not None
            return [TEXT_ENCODER] if told else []
        return [*encoders_of(arm.run.config), PIXELS]

    def reference(self, arm: Arm, name: str) -> Tensor:
        """Vectors [N, D] of all samples in one of them. Raises UserError where its encoder cannot
        be had."""
        return self._once(f"reference {name}", _of_run(arm), lambda: self._reference(arm, name))

    def text_encoder(self, arm: Arm) -> TextEncoder:
        """What made the latents that the arm learned from. Raises UserError where it cannot be
        had."""
        return self._once("text encoder", _of_run(arm), self.translator(arm).made_by.build)

    @torch.no_grad()
    def _reference(self, arm: Arm, name: str) -> Tensor:
        if arm.kind == "texts":
            encoder = self.text_encoder(arm)
            texts = self.samples.captions
            parts = [encoder(texts[n : n + 64]).embedding.cpu() for n in range(0, len(texts), 64)]
            return torch.cat(parts)
        assert isinstance(self.samples, Images)
        if name == PIXELS:
            return self.seen(arm).flatten(1)
        return self._spaces(arm, name).vectors(self.samples.dataset)[name].float()

    @torch.no_grad()
    def locate(self, arm: Arm, name: str, images: Tensor) -> Tensor:
        """Vectors [B, D] of images [B, C, R, R] in [0, 1] in one space."""
        if name == PIXELS:
            return images.flatten(1)
        return self._spaces(arm, name).locate(name, images.to(self.device)).float().cpu()

    def _spaces(self, arm: Arm, name: str) -> ReferenceSpaces:
        """One space at a time, so that an encoder that cannot be had stops no other."""
        config = arm.run.config
        return self._once(
            f"space {name}", _of_run(arm),
            lambda: ReferenceSpaces(
                {name: encoders_of(config)[name]}, self.transform(arm),
                config.data.build("train", cache_root() / "data"), self._team,
            ),
        )  # fmt: skip

    def _once(self, what: str, of: str, make: Callable[[], T]) -> T:
        if (what, of) not in self._kept:
            self._kept[what, of] = make()
        return self._kept[what, of]


def _of_run(arm: Arm) -> str:
    """Of what all arms of one run share."""
    return str(arm.run.path)


def encoders_of(config: Any) -> dict[str, EncoderConfig]:
    """Every image encoder that a recipe's settings name, by its kind; those of one kind also by
    where they are named (``pixel_pca, evaluate.encoder``)."""
    placed = _encoders(config, depth=2)
    kinds = [one.kind for one in placed.values()]
    return {
        one.kind if kinds.count(one.kind) == 1 else f"{one.kind}, {where}": one
        for where, one in placed.items()
    }


def _encoders(config: Any, *, depth: int) -> dict[str, EncoderConfig]:
    """By the place in the settings; those the user named (more_references) by that name."""
    found = dict[str, EncoderConfig]()
    for name, value in ((f.name, getattr(config, f.name)) for f in fields(config)):
        if isinstance(value, EncoderConfig):
            found[name] = value
        elif isinstance(value, dict):
            found |= {str(k): v for k, v in value.items() if isinstance(v, EncoderConfig)}
        elif is_dataclass(value) and depth > 1:
            deeper = _encoders(value, depth=depth - 1)
            found |= {f"{name}.{key}": one for key, one in deeper.items()}
    return found
