"""Fingerprints of weights and of settings: short, stable, the same on every machine."""

import json
from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor


def state_digest(state: Mapping[str, Tensor]) -> str:
    """xxh3-128 over names, dtypes, shapes and bytes of a state dict, whatever order it came in."""
    digest = xxhash.xxh3_128()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}\n".encode())
        # Viewed as bytes: numpy has no bfloat16, and a copy through float32 would hide the dtype.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """xxh3-128 of a JSON-able value; dicts are sorted, so insertion order does not matter."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())
