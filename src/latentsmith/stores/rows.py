"""What both backends check about the rows and buffers they are given."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsmith.errors import UserError, nearest
from latentsmith.stores.base import FeatureStore, FieldSpec
from latentsmith.stores.keys import listed
from latentsmith.stores.layout import numel


def check_rows(store: FeatureStore, rows: Tensor) -> None:
    """Raises UserError for rows int64 [B] that are not there or were unreadable."""
    if rows.dtype != torch.int64 or rows.ndim != 1:
        raise ValueError(f"rows are int64 [B], not {rows.dtype} {list(rows.shape)}")
    if not len(rows):
        return
    low, high = (int(row) for row in rows.aminmax())
    if low < 0 or high >= len(store):
        wrong = low if low < 0 else high
        raise UserError(f"row {wrong} of {store.path}: it has rows 0 to {len(store) - 1}")
    refuse_unreadable(store, rows)


def refuse_unreadable(store: FeatureStore, rows: Tensor) -> None:
    """Raises UserError naming the samples of ``rows`` that were unreadable, if there are any."""
    unreadable = store.unreadable
    bad = [row for row in rows.tolist() if row in unreadable] if unreadable else []
    if bad:
        raise UserError(
            f"{store.path} has no values of sample {listed([store.keys[row] for row in bad])}: "
            f"unreadable when the store was written ({unreadable[bad[0]]}). Leave it out "
            "(store.unreadable lists such rows)"
        )


def chosen(fields: Mapping[str, FieldSpec], wanted: Sequence[str] | None, path: Path) -> list[str]:
    """Field names to read. Raises UserError for a field the store does not have."""
    if wanted is None:
        return list(fields)
    for name in wanted:
        if name not in fields:
            raise UserError(f"{path} has no field {name!r}. {nearest(name, fields)}")
    return list(wanted)


def buffer(out: Mapping[str, Tensor] | None, name: str, spec: FieldSpec, count: int) -> Tensor:
    """The tensor [B, …] to fill: the caller's, or a fresh one."""
    shape = (count, *spec.shape)
    if out is None:
        return torch.empty(shape, dtype=spec.dtype)
    if name not in out:
        raise ValueError(f"no buffer for field {name!r} in out, which has {sorted(out)}")
    given = out[name]
    if given.shape != shape or given.dtype != spec.dtype or not given.is_contiguous():
        raise ValueError(
            f"the buffer of {name!r} must be contiguous {list(shape)} {spec.dtype}, not "
            f"{list(given.shape)} {given.dtype}"
        )
    return given


def as_bytes(table: Tensor) -> np.ndarray:
    """A contiguous tensor [n, …] as uint8 [n, bytes of a row]; bfloat16 has no numpy type."""
    row = numel(tuple(table.shape[1:])) * table.element_size()
    return table.reshape(-1).view(torch.uint8).numpy().reshape(len(table), row)
