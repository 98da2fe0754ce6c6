"""Saved autoencoders of any family."""

import json
from collections.abc import Callable
from pathlib import Path

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.field.model import CLASS as FIELD
from latentsmith.autoencoders.field.model import load_field
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.semantic import CLASS, CONFIG, load_semantic
from latentsmith.errors import UserError

FAMILIES: dict[str, Callable[[Path], Autoencoder]] = {CLASS: load_semantic, FIELD: load_field}
"""What ``config.json`` calls a family of ours → what loads it. All else is diffusers'."""


def load_autoencoder(folder: Path | str) -> Autoencoder:
    """The autoencoder in a folder, by what its ``config.json`` says it is.

    Raises:
        UserError: none there, or damaged.
    """
    folder = Path(folder)
    kind = _kind(folder)
    if kind in FAMILIES:
        return FAMILIES[kind](folder)
    return KLAutoencoderConfig(source=str(folder)).build()


def open_autoencoder(config: KLAutoencoderConfig) -> Autoencoder:
    """What ``config`` describes, or, where its source is the folder of another family, that.

    Raises:
        UserError: the source cannot be had, or a stated field disagrees with it.
    """
    folder = Path(config.source) / (config.subfolder or "")
    if (folder / CONFIG).is_file() and _kind(folder) in FAMILIES:
        return load_autoencoder(folder)
    return config.build()


def _kind(folder: Path) -> str | None:
    """What a folder's ``config.json`` says it holds. Raises UserError when it cannot be read."""
    try:
        return json.loads((folder / CONFIG).read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} holds no autoencoder: no readable {CONFIG} ({error})") from error
