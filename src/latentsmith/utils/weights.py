"""Tensors from files of anyone: nothing in them is executed."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from latentsmith.errors import UserError

UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError)
"""What libraries raise for a file of weights that is missing, damaged, or holds other things."""


def read_tensors(path: Path, known: Sequence[type] = ()) -> Any:
    """What a ``.safetensors``, or a file of `torch.save`, holds.

    Args:
        known: harmless classes that may be in it beside tensors, plain values and containers.

    Raises:
        UserError: no such file, a damaged one, or one that would run code.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(known)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"cannot read weights from {path}: {reason(error)}") from error


@contextmanager
def diffusers_is_quiet() -> Iterator[None]:
    """Around its ``from_pretrained``, which logs a page before the error we put into a sentence,
    and talks of unsafe files where it reads none: pickles are read with ``weights_only``."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def reason(error: Exception) -> str:
    """Why a file of weights cannot be read, in a few words. Where it would run code, torch advises
    to let it; we do not."""
    first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(" .")
    if "Weights only load failed" in first:
        return "it is damaged, or holds more than tensors, which would run code (give .safetensors)"
    return first
