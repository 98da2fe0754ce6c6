"""Saved autoencoders of any family."""

import json
from pathlib import Path

from latentsmith.autoencoders.base import Autoencoder
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.semantic import CLASS, CONFIG, load_semantic
from latentsmith.errors import UserError


def load_autoencoder(folder: Path | str) -> Autoencoder:
    """The autoencoder in a folder, by what its ``config.json`` says it is.

    Raises:
        UserError: none there, or damaged.
    """
    folder = Path(folder)
    try:
        kind = json.loads((folder / CONFIG).read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} holds no autoencoder: no readable {CONFIG} ({error})") from error
    if kind == CLASS:
        return load_semantic(folder)
    return KLAutoencoderConfig(source=str(folder)).build()
