"""The order in which samples are seen: a pure function of (seed, samples seen).

Position p of the endless stream lies in epoch ``p // n`` and shows dataset index
``perm(seed, epoch)[p % n]``. Nothing is remembered between calls, so a run resumes from one
integer, and since ranks take slices of the same *global* batch, another number of ranks sees the
same global batches (stock resumable loaders do neither: research note E, section 3.4). Nothing
is dropped at the end of an epoch: a batch may hold the end of one epoch and the start of the next.
"""

from functools import lru_cache

import torch
from torch import Tensor

from latentsmith.utils.seeding import generator


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    """int64 [n]. A few are kept: a batch needs one or two, and they take 40 ms at n = 1.28 M."""
    return torch.randperm(n, generator=generator(seed, "order", n, epoch))


def order(n: int, seed: int, start: int, count: int, *, shuffle: bool = True) -> Tensor:
    """Dataset indices at positions ``start … start + count`` of the stream.

    Args:
        n: number of samples in the dataset, at least 1.
        seed: the run's seed.
        start: samples seen before (over all ranks).
        count: how many positions.
        shuffle: with False every epoch runs 0, 1, … n - 1.

    Returns:
        int64 [count].
    """
    if n < 1 or start < 0 or count < 0:
        raise ValueError(f"order() needs n >= 1, start >= 0, count >= 0: {n}, {start}, {count}")
    positions = torch.arange(start, start + count)
    if not shuffle or count == 0:
        return positions % n
    first, last = start // n, (start + count - 1) // n
    parts = []
    for epoch in range(first, last + 1):
        low, high = max(start, epoch * n), min(start + count, (epoch + 1) * n)
        parts.append(_permutation(n, seed, epoch)[low - epoch * n : high - epoch * n])
    return torch.cat(parts)


def mixed_order(
    first: Tensor, second: Tensor, share: float, seed: int, start: int, count: int
) -> Tensor:
    """As `order`, of indices of two kinds, evenly interleaved; each has epochs of its own.

    Args:
        first, second: int64, none of them empty.
        share: of positions that show the first kind, in (0, 1).

    Returns:
        int64 [count].
    """
    positions = torch.arange(start, start + count + 1).double()
    before = (positions * share).floor().long()  # how many of the first kind come before each
    firsts = before.diff() > 0
    out = torch.empty(count, dtype=torch.int64)
    low, many = int(before[0]), int(firsts.sum())
    out[firsts] = first[order(len(first), seed, low, many)]
    out[~firsts] = second[order(len(second), seed, start - low, count - many)]
    return out


@lru_cache(maxsize=4)
def _windowed(n: int, seed: int, epoch: int, block: int, blocks: int) -> Tensor:
    rng = generator(seed, "windowed order", n, block, blocks, epoch)
    turns = torch.randperm(-(-n // block), generator=rng)
    parts = []
    for some in turns.split(blocks):
        rows = torch.cat([torch.arange(b * block, min((b + 1) * block, n)) for b in some.tolist()])
        parts.append(rows[torch.randperm(len(rows), generator=rng)])
    return torch.cat(parts)


def windowed_order(n: int, seed: int, start: int, count: int, *, block: int, blocks: int) -> Tensor:
    """As `order`, for samples that come in blocks too many to hold at once: an epoch takes them in
    random order, a few at a time, and shuffles within these.

    Args:
        block: samples of a block (of a shard).
        blocks: how many are mixed; with all of them this is a full shuffle.

    Returns:
        int64 [count].
    """
    if n < 1 or start < 0 or count < 0 or block < 1 or blocks < 1:
        raise ValueError(
            "windowed_order() needs n, block, blocks >= 1, start, count >= 0: "
            f"{n}, {block}, {blocks}, {start}, {count}"
        )
    parts = []
    while count > 0:
        epoch, at = divmod(start, n)
        part = _windowed(n, seed, epoch, block, blocks)[at : at + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """The contiguous part of a global batch of ``count`` samples that ``rank`` works on.

    Parts differ by at most one sample and tile the batch in rank order.
    """
    return slice(count * rank // world_size, count * (rank + 1) // world_size)
