"""The server of `helpers.exporting`: its children have diffusers, and cannot import latentsmith.

What a model card's code imports it must import itself: it runs with names of its own.
"""

import os
import sys
from pathlib import Path
from typing import Any


class Block:
    """Finds that there is no latentsmith."""

    def find_spec(self, name: str, *args: Any) -> None:
        if name.split(".")[0] == "latentsmith":
            raise ImportError("latentsmith is not here")


sys.meta_path.insert(0, Block())  # pyright: ignore[reportArgumentType]
try:
    import latentsmith  # noqa: F401
except ImportError:
    pass
else:
    raise AssertionError("latentsmith is here")

import diffusers.loaders.lora_pipeline  # noqa: E402
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: E402, F401
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def answer(place: str, asked: list[tuple[str, str]]) -> None:
    """Run PLACE/NAME.py of each (name, folder) in its folder, with PLACE/NAME.given.safetensors in
    ``x``, and keep what it puts into ``out``. What is printed goes to PLACE/said."""
    said = os.open(f"{place}/said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name, folder in asked:
        os.chdir(folder)
        x, out = load_file(f"{place}/{name}.given.safetensors"), {}
        code = compile(Path(f"{place}/{name}.py").read_text(), name, "exec")
        exec(code, {"x": x, "out": out, "__name__": name})
        made = {k: v.contiguous() for k, v in out.items()}
        save_file(made, f"{place}/{name}.made.safetensors")
