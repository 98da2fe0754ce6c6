"""Random streams that are pure functions of their names."""

import hashlib
import random

import numpy as np
import torch


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of integers and names, the same on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` for the stream named by ``parts``."""
    return torch.Generator(device=device).manual_seed(stream_seed(*parts))


def seed_globals(*parts: int | str) -> None:
    """Seed the global generators of torch (every device in use), NumPy and Python by ``parts``.

    Not by ``torch.manual_seed``: for each device library that is not in use it formats a stack
    trace, a millisecond in every step.
    """
    seed = stream_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
