"""A text inverter in a folder."""

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from latentsmith.backbones.text_inverter import TextInverter, TextInverterConfig
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_path, write_json

SETTINGS, WEIGHTS = "text_inverter.json", "text_inverter.safetensors"


def save_inverter(network: TextInverter, folder: Path) -> None:
    """Write settings and weights into ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as tmp:
        state = {n: p.detach().cpu().contiguous() for n, p in network.state_dict().items()}
        save_file(state, tmp)
    told = {
        "network": asdict(network.config),
        "vocabulary": network.vocabulary,
        "length": network.length,
        "latent_shape": list(network.latent_shape),
    }
    write_json(folder / SETTINGS, told)


def load_inverter(folder: Path) -> TextInverter:
    """What `save_inverter` wrote, on the CPU in evaluation mode.

    Raises:
        UserError: missing or damaged.
    """
    folder = Path(folder)
    try:
        told = json.loads((folder / SETTINGS).read_text())
        config = TypeAdapter(TextInverterConfig).validate_python(told["network"])
        network = config.build(told["vocabulary"], told["length"], tuple(told["latent_shape"]))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"no readable inverter in {folder} ({error}): train it again") from error
    return network.eval()
