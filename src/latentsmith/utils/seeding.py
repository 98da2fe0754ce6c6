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
    """Seed the global generators of torch (all devices), NumPy and Python by ``parts``."""
    seed = stream_seed(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
