"""Fields: signals with a value at every coordinate of [-1, 1]^d, known at scattered points.

`coordinates` says where lattices lie, `base` what a field promises, `image` and `shapes` are
fields, `points` data that is scattered from the start; `patterns` and `sampling` draw a training
step's points, `noise` is random functions of the coordinate, `interpolation` what no learning
gives.
"""

from latentsmith.data.fields.base import Field, FieldBatch
from latentsmith.data.fields.coordinates import axis, cell, cell_of, grid
from latentsmith.data.fields.image import ImageField, LatticeField
from latentsmith.data.fields.sampling import FieldSampler, FieldSamplingConfig, observe

__all__ = [
    "Field",
    "FieldBatch",
    "FieldSampler",
    "FieldSamplingConfig",
    "ImageField",
    "LatticeField",
    "axis",
    "cell",
    "cell_of",
    "grid",
    "observe",
]
