"""What a part of the library needs from the machine, for ``latentsmith doctor``.

A config class may say so with ``needs(self) -> list[Need]``; whoever asks walks the recipe.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Need:
    """One thing that is there or not."""

    what: str
    """``package peft``, ``weights facebook/dinov2-base``."""
    ok: bool
    how: str = ""
    """How to get it, when it is missing."""
    later: bool = False
    """It may still come by itself when it is first used: from the hub, where that is allowed."""


def needs_of(config: Any) -> Iterator[Need]:
    """The needs of a config and of everything configured inside it."""
    if isinstance(config, dict):
        for value in config.values():
            yield from needs_of(value)
    elif dataclasses.is_dataclass(config):
        if hasattr(config, "needs"):
            yield from config.needs()  # type: ignore[attr-defined]
        for f in dataclasses.fields(config):
            yield from needs_of(getattr(config, f.name))


def package(module: str, install: str | None = None) -> Need:
    """An importable module. ``install``: what to give pip, where the name differs."""
    found = importlib.util.find_spec(module) is not None
    return Need(f"package {module}", found, f"pip install {install or module}")


def hub_weights(source: str, subfolder: str | None = None) -> Need:
    """A model by hub id or folder: at hand without network?"""
    parts = [subfolder] if subfolder else []
    folder = Path(source).expanduser()
    if folder.is_dir() or source.startswith((".", "/", "~")):
        there = folder.joinpath(*parts, "config.json").is_file()
        return Need(f"weights in {source}", there, "give a folder written by save_pretrained")
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(source, "/".join([*parts, "config.json"])), str)
    return Need(
        f"weights {source}",
        cached,
        f"not in the Hugging Face cache; fetched on first use with network access, or: "
        f"hf download {source}",
        later=not _offline(),
    )


def hub_state() -> str:
    """Where the Hugging Face cache is and whether the environment allows the network."""
    from huggingface_hub import constants

    state = "offline (HF_HUB_OFFLINE is set)" if _offline() else "online unless the network is down"
    return f"{constants.HF_HUB_CACHE}, {state}"


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "True", "on", "yes")
