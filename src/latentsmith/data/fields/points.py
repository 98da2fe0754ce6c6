"""Signals that are scattered from the start: sensors, stations, samples in time or space.

Nothing is known between the points, so both inputs and queries are among them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsmith.data.fields.base import FieldBatch, check_points
from latentsmith.data.fields.sampling import FieldSamplingConfig, log_uniform, others
from latentsmith.errors import UserError
from latentsmith.utils.arrays import read_array, read_arrays


@dataclass(frozen=True)
class PointSet:
    """S signals, each known at N points.

    Raises:
        UserError: shapes that do not belong together, NaN.
    """

    coordinates: Tensor
    """float32 [S, N, d], d = 1, 2, 3; any unit (training needs [-1, 1], see `Frame`)."""
    values: Tensor
    """float32 [S, N, C]"""

    def __post_init__(self) -> None:
        check_points(self.coordinates, self.values, bounds=False)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor | slice) -> "PointSet":
        """Some of the signals."""
        return PointSet(self.coordinates[index], self.values[index])

    def to(self, device: torch.device | str) -> "PointSet":
        """The same on another device."""
        return PointSet(self.coordinates.to(device), self.values.to(device))

    def draw(self, cfg: FieldSamplingConfig, generator: torch.Generator) -> FieldBatch:
        """One training step's points of all signals: disjoint, drawn without replacement.

        ``cfg.inputs`` and ``cfg.queries`` bound how many (as far as there are points); its other
        settings are about lattices and do nothing here.

        Raises:
            UserError: fewer than 2 points, coordinates outside [-1, 1].
        """
        check_points(self.coordinates)
        total = self.values.shape[1]
        if total < 2:
            raise UserError("one known and one asked point need at least 2 points, got 1.")
        known = min(log_uniform(*cfg.inputs, generator), total - 1)
        asked = min(log_uniform(*cfg.queries, generator), total - known)
        nothing = torch.empty(len(self), 0, dtype=torch.int64)
        index = others(nothing, total, known + asked, generator).to(self.values.device)
        where, what = (
            x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
            for x in (self.coordinates, self.values)
        )
        return FieldBatch(
            input_coordinates=where[:, :known],
            input_values=what[:, :known],
            query_coordinates=where[:, known:],
            query_values=what[:, known:],
            on_lattice=asked,
        )


@dataclass(frozen=True)
class Frame:
    """From a user's units to those of fields and back: every axis and every channel to [-1, 1]."""

    center: Tensor
    """[d], of the coordinates"""
    half: Tensor
    """[d], half their extent"""
    value_center: Tensor
    """[C]"""
    value_half: Tensor
    """[C]"""

    @classmethod
    def of(cls, points: PointSet) -> "Frame":
        """The frame in which ``points`` (the training set) just fit. An axis or channel without
        extent keeps its unit."""
        return cls(*_middle(points.coordinates), *_middle(points.values))

    def normalize(self, points: PointSet) -> PointSet:
        """In the frame. Points outside the box it was made of lie outside [-1, 1]."""
        return PointSet(
            (points.coordinates - self.center) / self.half,
            (points.values - self.value_center) / self.value_half,
        )

    def restore(self, values: Tensor) -> Tensor:
        """Values [..., C] of the frame in the user's unit."""
        return values * self.value_half + self.value_center


def _middle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Center and half extent over all but the last axis."""
    low, high = x.flatten(0, -2).amin(0), x.flatten(0, -2).amax(0)
    half = (high - low) / 2
    return (low + high) / 2, torch.where(half > 0, half, 1)


def load_points(file: Path | str) -> PointSet:
    """Points from a NumPy ``.npz`` with the arrays ``coordinates`` [S, N, d] (or [N, d], the same
    for all signals) and ``values`` [S, N, C] (or [N, C], one signal).

    Raises:
        UserError: not such a file, arrays that do not belong together, NaN.
    """
    found = read_arrays(file)
    if missing := {"coordinates", "values"} - set(found):
        raise UserError(
            f"{file} has no array {' and no '.join(sorted(missing))}; it holds "
            f"{', '.join(sorted(found)) or 'nothing'}. Save points as "
            "np.savez(file, coordinates=…, values=…)."
        )
    return point_set(found["coordinates"], found["values"])


def point_set(coordinates: np.ndarray | Tensor, values: np.ndarray | Tensor) -> PointSet:
    """A `PointSet` of arrays: coordinates [S, N, d] or [N, d], values [S, N, C] or [N, C].

    Raises UserError: see `PointSet`."""
    where, what = (torch.as_tensor(x).float() for x in (coordinates, values))
    what = what[None] if what.ndim == 2 else what
    where = where.expand(len(what), *where.shape) if where.ndim == 2 else where
    return PointSet(where, what)


def load_lattice(file: Path | str) -> Tensor:
    """Signals on a lattice from a NumPy ``.npy``: float32 [S, C, …] with 1, 2 or 3 axes, for
    `latentsmith.data.fields.image.LatticeField`.

    Raises:
        UserError: not such a file, another shape, NaN.
    """
    array = read_array(file)
    if not 3 <= array.ndim <= 5:
        raise UserError(
            f"{file} must hold one array [S, C, …] with 1 to 3 axes, it has {list(array.shape)}."
        )
    values = torch.from_numpy(array).float()
    if not values.isfinite().all():
        raise UserError(f"{file} holds NaN or infinity: fill such places or leave the signals out.")
    return values
