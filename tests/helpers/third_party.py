"""The server of `helpers.fresh`: what latentsmith stands on is imported, nothing of itself."""

import os
import runpy
import sys
from types import ModuleType

import accelerate  # noqa: F401
import diffusers.models.autoencoders.autoencoder_kl  # noqa: F401
import hydra  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pydantic  # noqa: F401
import pytest  # noqa: F401
import torch.distributed
import torch.utils.tensorboard  # noqa: F401
import transformers  # noqa: F401


def python(words: list[str], folder: str, environment: dict[str, str], said: list[str]) -> None:
    """``python WORDS`` in a folder; what it says on its two streams goes to two files."""
    for stream, file in enumerate(said, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    added = environment.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = [folder, *filter(None, added), *sys.path[1:]]
    how, what, *sys.argv[1:] = words
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    assert how == "-c"
    sys.argv[0], sys.modules["__main__"] = "-c", ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
