"""Exports read as anybody would: the model card's own code, in a process without latentsmith."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def blocks_of(card: Path) -> dict[str, str]:
    """Part → the code that loads it, as the model card tells."""
    found = re.findall(r"^### `(.+?)`\n(?:(?!^###).)*?^```python\n(.*?)^```", card.read_text(),
                       re.DOTALL | re.MULTILINE)  # fmt: skip
    return dict(found)


BLOCK = """
import sys
class Block:
    def find_spec(self, name, *args):
        if name.split(".")[0] == "latentsmith":
            raise ImportError("latentsmith is not here")
sys.meta_path.insert(0, Block())
try:
    import latentsmith
except ImportError:
    pass
else:
    raise AssertionError("latentsmith is here")
import os
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
torch.set_grad_enabled(False)
def ask(name, folder, place, code):
    os.chdir(folder)
    x, out = load_file(f"{place}/{name}.given.safetensors"), {}
    exec(compile(code, name, "exec"), {"x": x, "out": out, "__name__": name})
    made = {k: v.contiguous() for k, v in out.items()}
    save_file(made, f"{place}/{name}.made.safetensors")
"""
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
    script = [BLOCK]
    for name, ask in asked.items():
        given = {k: v.contiguous() for k, v in ask.given.items()}
        save_file(given or {"nothing": torch.zeros(1)}, place / f"{name}.given.safetensors")
        blocks = blocks_of(ask.folder / "README.md")
        code = "\n".join([*(blocks[part] for part in ask.parts), GIVEN, ask.code])
        script.append(f"ask({name!r}, {str(ask.folder)!r}, {str(place)!r}, {code!r})")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        env=os.environ | {"HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "were not used" not in done.stderr and "newly initialized" not in done.stderr
    return {name: load_file(place / f"{name}.made.safetensors") for name in asked}
