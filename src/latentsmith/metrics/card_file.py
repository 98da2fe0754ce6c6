"""A latent card on disk: ``<path>.json`` (numbers) and ``<path>.safetensors`` (figures, draws)."""

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from latentsmith.errors import UserError
from latentsmith.metrics.base import Measurement
from latentsmith.metrics.card import LatentCard
from latentsmith.utils.files import atomic_path, write_json

_DRAWS = "draws/"


def save_card(card: LatentCard, path: Path) -> None:
    """Write both files, the numbers last: where they stand, the figures do too."""
    figures = {name: value.contiguous() for name, value in card.figures.items()}
    figures |= {_DRAWS + m.name: m.draws.contiguous() for m in card if m.draws is not None}
    with atomic_path(path.with_suffix(".safetensors")) as tmp:
        save_file(figures, tmp)
    write_json(path.with_suffix(".json"), card.to_json())


def load_card(path: Path) -> LatentCard:
    """Read what `save_card` wrote. Raises UserError when it is missing or damaged."""
    numbers = path.with_suffix(".json")
    try:
        value = json.loads(numbers.read_text())
        tensors = load_file(path.with_suffix(".safetensors"))
        measurements = [Measurement.from_json(m) for m in value["measurements"]]
        return LatentCard(
            [replace(m, draws=tensors.pop(_DRAWS + m.name, None)) for m in measurements],
            value["not_measured"],
            tensors,
        )
    except FileNotFoundError as error:
        raise UserError(f"no measurements at {error.filename}: run the measure stage") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{numbers} is damaged ({error}): delete it and measure again") from error
