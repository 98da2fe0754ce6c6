"""Stages of a recipe in two real processes of one group, as torchrun would start them."""

import contextlib
import io
import os
import shutil
from pathlib import Path
from unittest import mock

from helpers.ranks import run_ranks


def in_two_processes(stages: list[str], settings: list[str], folder: Path, cache: Path) -> str:
    """Run ``latentsmith train <stage>`` for each; what both processes said.

    Fails the test when they fail, with the end of what they said.
    """
    lines = [["train", stage, *settings, "--out", str(folder)] for stage in stages]
    return "".join(run_ranks(_go, 2, lines, str(cache)))


def undo_end(folder: Path, stage: str, model: str = "model") -> None:
    """As if a training had been killed before its last checkpoint: that, what it saved and its
    summary go."""
    training = folder / "training" / stage
    shutil.rmtree(max((training / "checkpoints").iterdir(), key=lambda p: int(p.name)))
    shutil.rmtree(training / model)
    (folder / "stages" / f"{stage}.json").unlink()


def _go(rank: int, world_size: int, lines: list[list[str]], cache: str) -> str:
    """A command parts from its group at its end, and here the next one goes on in it."""
    from latentsmith.cli import _main

    # accelerate asks for an address, although the group is there
    os.environ |= {"LATENTSMITH_CACHE": cache, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world_size)}
    said = io.StringIO()
    with (
        mock.patch.object(_main, "_leave_group"),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        for line in lines:
            assert _main.main(line) == 0, said.getvalue()[-6000:]
    return said.getvalue()
