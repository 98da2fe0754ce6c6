"""Elevation at scattered stations: real sensor data that lies in an installed package.

A digital elevation model of the Jacksboro fault (Tennessee; 344 x 403 heights, 236 to 1,076 m)
ships with Matplotlib. It is cut into maps; stations measure each at a few places. What lies
between the stations is known, so a reconstruction can be judged.
"""

import numpy as np
import torch
from torch import Tensor

from latentsmith.data.base import Split
from latentsmith.data.crops import region, squares
from latentsmith.data.fields.coordinates import grid
from latentsmith.data.fields.points import PointSet, point_set
from latentsmith.errors import UserError
from latentsmith.utils.seeding import generator

SIDE = 64
STRIDE: dict[Split, int] = {"train": 16, "val": 32}
VAL_FRACTION = 0.3


def terrain_maps(split: Split) -> Tensor:
    """Heights in meters, float32 [S, 1, 64, 64]: 252 training maps that overlap, 18 validation maps
    that overlap by half, and no training map.

    Raises:
        UserError: the installed Matplotlib comes without the model.
    """
    from matplotlib.cbook import get_sample_data

    try:
        with np.load(str(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))) as model:
            heights = torch.from_numpy(model["elevation"]).float()[None]
    except (OSError, KeyError, AttributeError) as error:
        raise UserError(
            f"the elevation model is missing from the installed matplotlib ({error}). "
            "Reinstall it: pip install --force-reinstall matplotlib"
        ) from error
    part = region(heights, split, SIDE, VAL_FRACTION, "the elevation model")
    return squares(part, SIDE, STRIDE[split])


def terrain_stations(split: Split, *, stations: int = 256, seed: int = 0) -> PointSet:
    """Each map at ``stations`` places of its own: coordinates [S, N, 2] in [-1, 1] (north-south,
    west-east), heights in meters [S, N, 1].

    Raises:
        UserError: more stations than places, see also `terrain_maps`.
    """
    maps = terrain_maps(split)
    if not 1 <= stations <= SIDE * SIDE:
        raise UserError(f"stations={stations}: a map has {SIDE * SIDE} places.")
    rng = generator(seed, "stations", split)
    places = torch.rand(len(maps), SIDE * SIDE, generator=rng).topk(stations, dim=1).indices
    heights = maps.flatten(1).gather(1, places)
    return point_set(grid(SIDE, 2)[places], heights[:, :, None])
