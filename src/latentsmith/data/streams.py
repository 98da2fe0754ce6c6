"""Random numbers that belong to a position, not to a moment.

Drawing one generator per sample is slow and drawing one per batch ties a sample's numbers to the
batch it came in. Here positions share a generator per block of 256: row ``p % 256`` of block
``p // 256`` is a pure function of (names, p), whatever the batch size, rank, order or history.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentsmith.utils.seeding import generator

BLOCK = 256


def uniforms(names: Sequence[int | str], positions: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) for each position of one named stream.

    Args:
        names: what the stream is called, e.g. ``(seed, "transform")``.
        positions: int64 [B], non-negative, any order, repeats allowed.
        count: numbers per position. A different ``count`` is a different stream.

    Returns:
        float64 [B, count].
    """
    out = torch.empty(len(positions), count, dtype=torch.float64)
    blocks = positions // BLOCK
    for block in blocks.unique().tolist():
        rows = blocks == block
        draws = torch.rand(
            BLOCK, count, dtype=torch.float64, generator=generator(*names, count, block)
        )
        out[rows] = draws[positions[rows] % BLOCK]
    return out
