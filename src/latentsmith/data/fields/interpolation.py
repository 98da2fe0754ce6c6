"""What scattered points give without learning. A model that does not beat these is not a result.

Points outside the hull of what is known get the nearest value: nothing is extrapolated, except by
thin-plate splines and kriging, which do so by themselves.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentsmith.data.fields.base import check_points
from latentsmith.data.fields.coordinates import Resolution, sizes
from latentsmith.errors import UserError, nearest

Interpolator = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""known points [N, d], their values [N, C], asked points [M, d] → [M, C]; all float64."""

NEIGHBOURS = 512
"""Thin-plate splines solve one system for all points up to here, then one of the 64 nearest for
each asked point."""
VARIOGRAM = 1.8
"""Power of the distance in kriging's variogram: the best of those tried on photographs."""


def _mean(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values.mean(0), (len(asked), values.shape[1]))


def _nearest(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from scipy.spatial import KDTree

    return values[KDTree(known).query(asked)[1]]


def _linear(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from scipy.interpolate import LinearNDInterpolator

    if known.shape[1] == 1:
        along = np.argsort(known[:, 0])
        x, y = known[along, 0], values[along]
        return np.stack([np.interp(asked[:, 0], x, column) for column in y.T], axis=1)
    return _inside_hull(LinearNDInterpolator(known, values)(asked), known, values, asked)


def _cubic(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from scipy.interpolate import CloughTocher2DInterpolator, PchipInterpolator

    dims = known.shape[1]
    if dims == 3:
        raise UserError("cubic interpolation of scattered points is for 1 or 2 dimensions, not 3.")
    if dims == 1:
        along = np.argsort(known[:, 0])
        curve = PchipInterpolator(known[along, 0], values[along], extrapolate=False)
        return _inside_hull(curve(asked[:, 0]), known, values, asked)
    surface = CloughTocher2DInterpolator(known, values)
    return _inside_hull(surface(asked), known, values, asked)


def _thin_plate(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from scipy.interpolate import RBFInterpolator

    near = None if len(known) <= NEIGHBOURS else 64
    return RBFInterpolator(known, values, neighbors=near, kernel="thin_plate_spline")(asked)


def _kriging(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """f(q) = b - Σ w_n |q - c_n|^1.8 through all values, Σ w_n = 0: ordinary kriging with a power
    variogram (Cressie, Statistics for Spatial Data, 1993)."""
    from scipy.spatial.distance import cdist

    count = len(known)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = -(cdist(known, known) ** VARIOGRAM)
    system[count, :count] = system[:count, count] = 1
    found = np.linalg.solve(system, np.vstack([values, np.zeros_like(values[:1])]))
    return found[count] - cdist(asked, known) ** VARIOGRAM @ found[:count]


INTERPOLATORS: dict[str, Interpolator] = {
    "mean": _mean,
    "nearest": _nearest,
    "linear": _linear,
    "cubic": _cubic,
    "thin_plate": _thin_plate,
    "kriging": _kriging,
}
"""name → interpolator. ``linear`` is on Delaunay simplices, ``cubic`` Clough and Tocher's C1
surface on them (in one dimension a monotone cubic)."""


def interpolate(method: str, coordinates: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    """Values of B signals at other points, by SciPy in float64, one signal at a time.

    Args:
        method: a name of `INTERPOLATORS`.
        coordinates, values: what is known, [B, N, d] and [B, N, C]. Points in one place count as
            one, with their mean.
        queries: [B, M, d] or [1, M, d].

    Returns:
        [B, M, C] in the dtype and on the device of ``values``.

    Raises:
        UserError: no such method; too few points, or all on one line (linear, cubic, thin_plate);
            cubic in three dimensions; points that are not in [-1, 1] or hold NaN.
    """
    if method not in INTERPOLATORS:
        raise UserError(f"no interpolation {method!r}. {nearest(method, INTERPOLATORS)}")
    check_points(coordinates, values)
    arrays = [x.detach().double().cpu().numpy() for x in (coordinates, values, queries)]
    found = []
    for row, (known, have) in enumerate(zip(*arrays[:2], strict=True)):
        asked = arrays[2][row if len(queries) > 1 else 0]
        found.append(_one(method, known, have, asked))
    return torch.from_numpy(np.stack(found)).to(values)


def _one(method: str, known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from scipy.spatial import QhullError

    known, values = _merged(known, values)
    try:
        return INTERPOLATORS[method](known, values, asked)
    except (QhullError, np.linalg.LinAlgError, ValueError) as error:
        raise UserError(
            f"{method} interpolation cannot use these {len(known)} point(s): it needs at least "
            f"{known.shape[1] + 1}, not all on one line or plane. 'nearest' and 'mean' can."
        ) from error


def _merged(known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each place once, with the mean of its values."""
    places, which, counts = np.unique(known, axis=0, return_inverse=True, return_counts=True)
    if len(places) == len(known):
        return known, values
    sums = np.zeros((len(places), values.shape[1]))
    np.add.at(sums, which.reshape(-1), values)
    return places, sums / counts[:, None]


def _inside_hull(
    found: np.ndarray, known: np.ndarray, values: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """NaN (outside the hull) replaced by the nearest value."""
    outside = np.isnan(found).any(axis=1)
    if outside.any():
        found[outside] = _nearest(known, values, asked[outside])
    return found


def bicubic(values: Tensor, resolution: Resolution) -> Tensor:
    """A whole lattice enlarged: [B, C, H, W] → [B, C, *resolution], bicubic (Keys, a = -1/2), in
    the pixel-center convention. From all of 32² it is the ceiling without a learned prior.
    """
    size = sizes(resolution, 2)
    return F.interpolate(values, size=size, mode="bicubic", antialias=True, align_corners=False)
