"""Exports read as anybody would: the model card's own code, in a process without latentsmith."""

import atexit
import functools
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.nursery import Nursery


def blocks_of(card: Path) -> dict[str, str]:
    """Part → the code that loads it, as the model card tells."""
    found = re.findall(r"^### `(.+?)`\n(?:(?!^###).)*?^```python\n(.*?)^```", card.read_text(),
                       re.DOTALL | re.MULTILINE)  # fmt: skip
    return dict(found)


GIVEN = "import torch\nfrom safetensors.torch import load_file"


@dataclass
class Ask:
    """What is asked of one export in a process of its own.

    Attributes:
        folder: the export. parts: whose code of the card runs first.
        code: runs in the folder, with ``given`` in ``x``, and puts its answers into ``out``.
    """

    folder: Path
    code: str
    given: Mapping[str, Tensor]
    parts: list[str]


def run_card(
    folder: Path, code: str, given: Mapping[str, Tensor], *, parts: list[str]
) -> dict[str, Tensor]:
    """What one export answers; see `Ask`."""
    return run_cards(folder.parent, {"it": Ask(folder, code, given, parts)})["it"]


def run_cards(place: Path, asked: Mapping[str, Ask]) -> dict[str, dict[str, Tensor]]:
    """What exports answer, all in one process that cannot import latentsmith. ``place``: a folder
    for what goes between."""
    for name, ask in asked.items():
        given = {k: v.contiguous() for k, v in ask.given.items()}
        save_file(given or {"nothing": torch.zeros(1)}, place / f"{name}.given.safetensors")
        blocks = blocks_of(ask.folder / "README.md")
        code = [*(blocks[part] for part in ask.parts), GIVEN, ask.code]
        (place / f"{name}.py").write_text("\n".join(code))
    folders = [(name, str(ask.folder)) for name, ask in asked.items()]
    code = _strangers().run("helpers.stranger:answer", str(place), folders)
    said = (place / "said").read_text()
    assert code == 0, said[-3000:] or _strangers().said()
    assert "were not used" not in said and "newly initialized" not in said
    return {name: load_file(place / f"{name}.made.safetensors") for name in asked}


@functools.cache
def _strangers() -> Nursery:
    """Starting a process that has diffusers costs more than most of what is asked of it."""
    folder = tempfile.TemporaryDirectory()
    modules = {"HF_MODULES_CACHE": f"{folder.name}/modules", "HF_HUB_OFFLINE": "1"}
    nursery = Nursery("helpers.stranger", log=Path(folder.name, "log"), env=modules)
    atexit.register(folder.cleanup)
    atexit.register(nursery.__exit__)  # comes first
    return nursery
