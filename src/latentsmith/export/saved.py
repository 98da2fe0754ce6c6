"""Whatever was saved after a training, by what lies in its folder."""

from collections.abc import Callable
from pathlib import Path

from latentsmith.autoencoders.field.flow import CONFIG as FLOW
from latentsmith.autoencoders.field.flow import load_flow
from latentsmith.autoencoders.load import load_autoencoder
from latentsmith.backbones.text_inverter_saved import SETTINGS as INVERTER
from latentsmith.backbones.text_inverter_saved import load_inverter
from latentsmith.diffusion.text_latent.saved import SETTINGS as TEXT_LATENT
from latentsmith.errors import UserError
from latentsmith.export.alone import Alone
from latentsmith.sampling.generator import LatentGenerator
from latentsmith.sampling.generator_info import FILE_NAME as GENERATOR
from latentsmith.sampling.text_latent.translator import Translator

ALONE: dict[str, Callable[[Path], Alone]] = {
    TEXT_LATENT: Translator.load,
    INVERTER: load_inverter,
    FLOW: load_flow,
    "config.json": load_autoencoder,
}
"""File that tells a kind of model → what loads it."""


def open_saved(folder: Path, *, autoencoder: Path | None = None) -> LatentGenerator | Alone:
    """The model in a folder.

    Args:
        autoencoder: of a generator, where its autoencoder is now.

    Raises:
        UserError: no such folder, nothing in it that was saved by a training, or damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}. Give a run, or the folder of a model that was saved"
        )
    if (folder / GENERATOR).is_file():
        return LatentGenerator.load(folder, autoencoder=autoencoder)
    if autoencoder is not None:
        raise UserError(
            f"--autoencoder says where a generator's autoencoder is, and {folder} holds no "
            "generator: leave it out"
        )
    found = next((load for name, load in ALONE.items() if (folder / name).is_file()), None)
    if found is None:
        known = ", ".join([GENERATOR, *ALONE])
        raise UserError(
            f"{folder} holds nothing to export: it has none of {known}. Give a run, or the folder "
            "of a model that was saved"
        )
    return found(folder)
