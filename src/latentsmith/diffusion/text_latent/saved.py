"""A trained model in a folder: settings, weights, and what its inputs mean."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.diffusion.masked import MaskedText
from latentsmith.diffusion.text_latent.model import TextLatentModel
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_path, write_json

SETTINGS = "text_latent.json"
WEIGHTS = "text_latent.safetensors"
FORMAT = 2
"""2: text tokens have learned places."""


def save_model(model: TextLatentModel, folder: Path | str) -> None:
    """Write ``text_latent.json`` and ``text_latent.safetensors``."""
    folder, network = Path(folder), model.network
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as tmp:
        state = {n: p.detach().cpu().contiguous() for n, p in network.state_dict().items()}
        save_file(state, tmp)
    write_json(
        folder / SETTINGS,
        {
            "format": FORMAT,
            "network": asdict(network.config),
            "length": network.length,
            "latent_shape": list(network.latent_shape),
            "process": asdict(model.process),
            "predicts": model.predicts,
            "t_max": model.t_max,
        },
    )


def load_model(folder: Path | str) -> TextLatentModel:
    """Read what `save_model` wrote; the network on the CPU, in evaluation mode.

    Raises:
        UserError: missing, damaged, or of another version of latentsmith.
    """
    import json

    folder = Path(folder)
    try:
        value: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        if value["format"] != FORMAT:
            raise UserError(
                f"{folder / SETTINGS} is of format {value['format']}, and this version of "
                f"latentsmith reads {FORMAT}"
            )
        config = TypeAdapter(MMDiTConfig).validate_python(value["network"])
        process = MaskedText(**value["process"])
        network = config.build(process.vocabulary, value["length"], tuple(value["latent_shape"]))
        network.load_state_dict(load_file(folder / WEIGHTS))
        return TextLatentModel(network.eval(), process, value["predicts"], value["t_max"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError, SafetensorError) as error:
        raise UserError(f"the model in {folder} is missing or damaged ({error})") from error
    except RuntimeError as error:  # load_state_dict's
        raise UserError(f"the weights in {folder} do not fit their settings ({error})") from error
