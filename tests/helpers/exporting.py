"""Exports read as anybody would: the model card's own code, in a process without latentsmith."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def blocks_of(card: Path) -> dict[str, str]:
    """Part → the code that loads it, as the model card tells."""
    found = re.findall(r"^### `(.+?)`\n(?:(?!^###).)*?^```python\n(.*?)^```", card.read_text(),
                       re.DOTALL | re.MULTILINE)  # fmt: skip
    return dict(found)


def run_card(
    folder: Path, code: str, given: Mapping[str, Tensor], *, parts: list[str], foreign: bool = True
) -> dict[str, Tensor]:
    """Run the card's code of ``parts`` inside the export, then ``code``, with ``given`` in ``x``;
    what it puts into ``out``.

    Args:
        foreign: latentsmith must not be imported; False: it may.
    """
    save_file({k: v.contiguous() for k, v in given.items()}, folder.parent / "given.safetensors")
    blocks = blocks_of(folder / "README.md")
    script = [
        "import torch",
        "torch.set_num_threads(1)",
        "torch.set_grad_enabled(False)",
        *(blocks[part] for part in parts),
        "from safetensors.torch import load_file, save_file",
        "x, out = load_file('../given.safetensors'), {}",
        code,
        "import sys",
        f"assert not {foreign} or not any(m.startswith('latentsmith') for m in sys.modules)",
        "save_file({k: v.contiguous() for k, v in out.items()}, '../made.safetensors')",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder.parent / "made.safetensors")
