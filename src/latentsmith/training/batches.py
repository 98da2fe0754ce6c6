"""What the loop asks of a source of batches, and how it cuts a batch up."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from latentsmith.data.order import rank_slice
from latentsmith.training.task import Batch


class BatchSource(Protocol):
    """An endless stream of batches whose order is a pure function of position.

    Attributes:
        fingerprint: JSON-able; changes when the data or their order do. Resuming compares it.
    """

    @property
    def fingerprint(self) -> dict[str, Any]: ...

    def iterate(self, start: int) -> Iterator[Batch]:
        """Batches from global sample ``start`` on, for ever; each is this process's part of one
        optimiser step's batch."""
        ...


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors on ``device``; everything else as it is."""
    return tree_map_only(Tensor, lambda value: value.to(device, non_blocking=True), batch)


def rows(batch: Batch, part: slice) -> Batch:
    """Some samples of a batch of B: every tensor [B, …] and sequence of length B is cut, also
    inside a dict (a sample's factors).

    Raises ValueError for anything else: a value that is not per sample has no place in a batch.
    """
    return _rows(batch, part, len(batch["index"]), "batch")


def _rows(value: Any, part: slice, total: int, where: str) -> Any:
    if isinstance(value, dict):
        return {k: _rows(v, part, total, f"{where}[{k!r}]") for k, v in value.items()}
    scalar = not hasattr(value, "__len__") or (isinstance(value, Tensor) and value.ndim == 0)
    if scalar or len(value) != total:
        raise ValueError(
            f"{where} has no length {total} like batch['index'], so the batch cannot be cut"
        )
    return value[part]


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch of B samples into ``parts`` batches of B / parts, in order. Raises as `rows`."""
    if parts == 1:
        return [batch]
    size = len(batch["index"]) // parts
    return [rows(batch, slice(i * size, (i + 1) * size)) for i in range(parts)]


def shard(batch: Batch, rank: int, world_size: int) -> Batch:
    """This process's part of a batch every process has; parts differ by at most one sample.

    Raises:
        ValueError: fewer samples than processes.
    """
    if world_size == 1:
        return batch
    total = len(batch["index"])
    if total < world_size:
        raise ValueError(f"a batch of {total} samples cannot be spread over {world_size} processes")
    return rows(batch, rank_slice(total, rank, world_size))
