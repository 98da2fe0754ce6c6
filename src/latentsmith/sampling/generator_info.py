"""What a saved generator says about itself."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latentsmith.diffusion.paths import PATHS, PathConfig
from latentsmith.errors import UserError
from latentsmith.registry import read
from latentsmith.sampling.pairing import Pairing

FILE_NAME = "generator.json"
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
        text_encoder: settings and fingerprint of the encoder that reads prompts for it, see
            `latentsmith.sampling.prompts.described`; None: it was trained without texts, or its
            file is older than this field.
    """

    path: PathConfig
    pairing: Pairing
    autoencoder: str
    classes: list[str] | None
    training: dict[str, Any]
    text_encoder: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {
            "format": FORMAT,
            "path": asdict(self.path),
            "pairing": self.pairing.to_json(),
            "autoencoder": self.autoencoder,
            "classes": self.classes,
            "training": self.training,
            "text_encoder": self.text_encoder,
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
            text_encoder=value.get("text_encoder"),
        )


def read_info(folder: Path) -> GeneratorInfo:
    """What `LatentGenerator.save` wrote into ``folder``; the autoencoder beside it, moved together
    with it, goes before the one it was saved with.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        there = f"{folder} holds no generator: it has no {FILE_NAME}"
        what = there if folder.is_dir() else f"there is no folder {folder}"
        raise UserError(f"{what}. Give a run, or the folder of a generator that was saved")
    try:
        value = json.loads(file.read_text())
        info = GeneratorInfo.from_json(value)
        beside = os.path.normpath(folder / value[FROM_HERE])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): save the generator again") from error
    return replace(info, autoencoder=beside) if is_model(Path(beside)) else info


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model in diffusers' layout."""
    return (folder / "config.json").is_file()
