"""A field autoencoder at work on files: points in, codes and values out.

Points are ``.npz`` files with ``coordinates`` [S, N, d] (or [N, d]) and ``values`` [S, N, C] (see
`latentsmith.data.fields.points.load_points`), or images, of which some lattice points are given.
Codes are ``.npz`` with ``codes`` [S, z, h, w] and the digest of the encoder that made them, so that
another's decoder is refused.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsmith.autoencoders.field.model import FieldAutoencoder
from latentsmith.data.base import CorruptSample
from latentsmith.data.decode import decode_image
from latentsmith.data.fields import ImageField, grid, observe
from latentsmith.data.fields.patterns.random import RandomConfig
from latentsmith.data.fields.points import PointSet, load_points
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.utils.arrays import read_array, read_arrays
from latentsmith.utils.files import atomic_path
from latentsmith.utils.seeding import generator


@dataclass(frozen=True)
class Asked:
    """Where values are wanted: on a grid of ``resolution`` points a side, each the mean of
    ``supersample`` points a side; or at ``coordinates`` [M, d] or [S, M, d]."""

    resolution: int | None = None
    supersample: int = 1
    coordinates: Tensor | None = None

    @classmethod
    def of(cls, resolution: int | None, supersample: int, coordinates: Path | None) -> "Asked":
        """From a command line. Raises UserError for both or neither, or a file that is none."""
        if (resolution is None) == (coordinates is None):
            raise UserError("say where values are wanted: either --resolution or --coordinates")
        if coordinates is None:
            return cls(resolution, supersample)
        if supersample != 1:
            raise UserError("--supersample is of grids: leave it out with --coordinates")
        array = read_array(coordinates)
        if array.ndim not in (2, 3):
            raise UserError(f"{coordinates} must hold one array [M, d] or [S, M, d] of coordinates")
        return cls(coordinates=torch.from_numpy(array).float())


def given_points(
    autoencoder: FieldAutoencoder, file: Path, *, inputs: int | None, seed: int
) -> PointSet:
    """Points of a file: ``.npz``, or an image of which ``inputs`` lattice points are given (None:
    all).

    Raises:
        UserError: a file that cannot be read, or ``inputs`` for a file of points.
    """
    if file.suffix == ".npz":
        if inputs is not None:
            raise UserError(f"--inputs is of images: {file} says itself which points it has")
        return load_points(file)
    c = autoencoder.config
    image = _image(file, c.channels, c.resolution)
    count = c.lattice**2 if inputs is None else inputs
    rng = generator(seed, "given points")
    field = ImageField(2 * image[None] - 1)
    where, what, _ = observe(field, c.lattice, count, RandomConfig().build(), rng)
    return PointSet(where, what)


def _image(file: Path, channels: int, resolution: int) -> Tensor:
    """[C, R, R] in [0, 1]. Raises UserError where values are no colors, or the file no image."""
    if channels not in (1, 3):
        raise UserError(
            f"{file} is no .npz, and values of {channels} numbers are no picture's: give points as "
            ".npz with coordinates and values"
        )
    try:
        raw = decode_image(file, "gray" if channels == 1 else "rgb", str(file))
    except CorruptSample as error:
        raise UserError(f"points: {error}") from error
    return TransformConfig(resolution=resolution, channels=1 if channels == 1 else 3).build()(raw)


@torch.no_grad()
def encode(autoencoder: FieldAutoencoder, points: PointSet) -> Tensor:
    """Raw codes [S, z, h, w]. Raises UserError for points of another kind of field."""
    return autoencoder.encode_points(points.coordinates, points.values)


@torch.no_grad()
def decode(autoencoder: FieldAutoencoder, codes: Tensor, asked: Asked) -> dict[str, np.ndarray]:
    """``coordinates`` and ``values`` [S, M, C]; of a grid also ``grid`` [S, C, R, …]."""
    if asked.coordinates is not None:
        values = autoencoder.decode_at(codes, asked.coordinates)
        return {"coordinates": asked.coordinates.numpy(), "values": values.numpy()}
    assert asked.resolution is not None
    whole = autoencoder.decode_grid(codes, asked.resolution, supersample=asked.supersample)
    where = grid(asked.resolution, autoencoder.config.dims)
    return {
        "coordinates": where.numpy(),
        "values": whole.flatten(2).mT.numpy(),
        "grid": whole.numpy(),
    }


def save_codes(autoencoder: FieldAutoencoder, codes: Tensor, out: Path) -> None:
    """Write codes with the digest of the encoder that made them."""
    save_arrays({"codes": codes.numpy(), "encoder": np.array(autoencoder.encoder_digest())}, out)


def load_codes(autoencoder: FieldAutoencoder, file: Path) -> Tensor:
    """What `save_codes` wrote.

    Raises:
        UserError: no such file, or codes of another encoder or shape.
    """
    arrays = read_arrays(file)
    if not {"codes", "encoder"} <= arrays.keys() or arrays["codes"].dtype.kind != "f":
        raise UserError(f"{file} holds no codes: latentsmith encode writes such")
    codes, made_by = torch.from_numpy(arrays["codes"]).float(), str(arrays["encoder"])
    own = autoencoder.encoder_digest()
    if made_by != own:
        raise UserError(
            f"the codes in {file} were made by another encoder ({made_by[:12]}) than this "
            f"autoencoder's ({own[:12]}): decode them with the one that made them"
        )
    return codes


def save_arrays(arrays: dict[str, np.ndarray], out: Path) -> None:
    """Write an ``.npz``, all or nothing."""
    with atomic_path(out) as tmp, tmp.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
