"""Samples → batch."""

from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Sample


def collate(samples: list[Sample]) -> dict[str, Any]:
    """Join samples that have the same keys.

    Tensors are stacked, integers and booleans become int64 [B], floats float32 [B], dicts are
    joined key by key, everything else (captions) becomes a list.
    """
    return {key: _join([sample[key] for sample in samples]) for key in samples[0]}


def _join(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, int):
        return torch.tensor(values, dtype=torch.int64)
    if isinstance(first, float):
        return torch.tensor(values, dtype=torch.float32)
    if isinstance(first, dict):
        return collate(values)
    return values
