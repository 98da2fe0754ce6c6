"""Numbers about a field, gathered shard by shard and joined.

Besides range and spread there are the norms of its *vectors*: along the last dimension for
tokens, texts and pooled vectors (which many methods want on the unit sphere), of the whole row for
latents.
"""

import math
from typing import Any

import torch
from torch import Tensor

from latentsmith.stores.base import Content

Statistics = dict[str, Any]
"""``count``, ``min``, ``max``, ``mean``, ``std`` of numbers; ``vectors``, ``zeros`` (vectors of
norm 0), ``norm_min``, ``norm_max``, ``norm_mean``."""

CHUNK = 1 << 16
"""Numbers looked at in one go: they are to stay in the processor's cache. Copies of a whole shard
cost ten times as long, most of it for the pages of fresh memory."""


def vectors(values: Tensor, content: Content) -> Tensor:
    """``values`` [n, …] as vectors [n, m, D]: D of which the norm is taken, m of them in a row."""
    if content == "latents" or values.ndim < 3:
        return values.reshape(len(values), 1, -1)
    return values.reshape(len(values), -1, values.shape[-1])


def measure(values: Tensor, content: Content) -> Statistics:
    """Statistics of rows [n, …], which may hold NaN: then ``min`` and ``max`` are NaN too."""
    rows = max(CHUNK // max(values[:1].numel(), 1), 1)
    parts = [_measure(part, content) for part in values.split(rows)] if len(values) else []
    return join(parts)


def _measure(values: Tensor, content: Content) -> Statistics:
    x = values.float()
    low, high = x.aminmax()
    count, mean = x.numel(), float(x.sum(dtype=torch.float64)) / x.numel()
    norms = torch.linalg.vector_norm(vectors(x, content), dim=-1, dtype=torch.float64)
    power = float(norms.square().sum()) / count
    return {
        "count": count,
        "min": float(low),
        "max": float(high),
        "mean": mean,
        "std": math.sqrt(max(power - mean**2, 0.0)) if math.isfinite(power) else math.nan,
        "vectors": norms.numel(),
        "zeros": int((norms == 0).sum()),
        "norm_min": float(norms.min()),
        "norm_max": float(norms.max()),
        "norm_mean": float(norms.mean()),
    }


def join(parts: list[Statistics]) -> Statistics:
    """Statistics of all from those of parts; empty without parts."""
    parts = [part for part in parts if part]
    if not parts:
        return {}
    count = sum(p["count"] for p in parts)
    many = sum(p["vectors"] for p in parts)
    mean = math.fsum(p["mean"] * p["count"] for p in parts) / count
    spread = math.fsum((p["std"] ** 2 + (p["mean"] - mean) ** 2) * p["count"] for p in parts)
    return {
        "count": count,
        "min": _lowest([p["min"] for p in parts]),
        "max": -_lowest([-p["max"] for p in parts]),
        "mean": mean,
        "std": math.sqrt(spread / count),
        "vectors": many,
        "zeros": sum(p["zeros"] for p in parts),
        "norm_min": min(p["norm_min"] for p in parts),
        "norm_max": max(p["norm_max"] for p in parts),
        "norm_mean": math.fsum(p["norm_mean"] * p["vectors"] for p in parts) / many,
    }


def _lowest(numbers: list[float]) -> float:
    """The minimum, which is NaN if any is: Python's own depends on their order."""
    return math.nan if any(map(math.isnan, numbers)) else min(numbers)


def not_finite(values: Tensor) -> Tensor:
    """Numbers int64 of the rows [n, …] that hold NaN or infinity."""
    return (~values.isfinite().reshape(len(values), -1).all(1)).nonzero()[:, 0]
