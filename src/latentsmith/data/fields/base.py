"""What a field promises, and what training takes from one.

A field is a batch of signals with a value at *every* coordinate. What a "value" is depends on the
resolution asked for: at R points along an axis it is the mean over a cell 2/R wide around the
coordinate (what an ideal sensor with R pixels measures). So truth at 32, 64 and 96 is three
different functions of one original, and each says its own.
"""

from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from latentsmith.data.fields.coordinates import Resolution
from latentsmith.errors import UserError


@runtime_checkable
class Field(Protocol):
    """A batch of B signals over [-1, 1]^d with C numbers at each coordinate.

    Attributes:
        dims: d.
        channels: C.
        device: where values are made.
    """

    dims: int
    channels: int
    device: torch.device

    def __len__(self) -> int:
        """B"""
        ...

    def at(self, coordinates: Tensor, resolution: Resolution) -> Tensor:
        """Means over cells of ``resolution`` around coordinates [B, M, d] → [B, M, C]."""
        ...

    def lattice(self, resolution: Resolution) -> Tensor:
        """The same at all cell centers of the resolution: [B, C, R, …]."""
        ...


@dataclass
class FieldBatch:
    """What is known and what is asked, at two disjoint sets of coordinates in [-1, 1]^d."""

    input_coordinates: Tensor
    """[B, N, d]"""
    input_values: Tensor
    """[B, N, C]"""
    query_coordinates: Tensor
    """[B, M, d]"""
    query_values: Tensor
    """[B, M, C]"""
    on_lattice: int
    """The first so many queries are lattice points, the rest lie anywhere."""

    def to(self, device: torch.device | str) -> "FieldBatch":
        """The same on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def check_points(coordinates: Tensor, values: Tensor | None = None, *, bounds: bool = True) -> None:
    """Raises UserError unless coordinates are finite [B, N, d], d = 1, 2, 3, and (with ``bounds``)
    in [-1, 1], and values, where given, finite [B, N, C]."""
    if coordinates.ndim != 3 or not 1 <= coordinates.shape[-1] <= 3:
        raise UserError(
            f"coordinates must be [B, N, d] with d = 1, 2 or 3, got {list(coordinates.shape)}."
        )
    if values is not None and (values.ndim != 3 or values.shape[:2] != coordinates.shape[:2]):
        raise UserError(
            f"values must be [B, N, C] for coordinates {list(coordinates.shape)}, "
            f"got {list(values.shape)}."
        )
    for name, x in (("coordinates", coordinates), ("values", values)):
        if x is not None and not x.isfinite().all():
            raise UserError(f"{name} hold NaN or infinity: leave such points out.")
    if bounds and not coordinates.abs().le(1).all():
        raise UserError(
            f"coordinates must lie in [-1, 1], found {float(coordinates.min()):.4g} to "
            f"{float(coordinates.max()):.4g}: scale them (`Frame.of(points).normalize(points)`)."
        )
