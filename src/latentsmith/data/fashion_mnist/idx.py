"""The IDX file format of MNIST: magic number, sizes, raw bytes; usually gzipped."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from latentsmith.data.found import Unavailable


class BadFile(Unavailable):
    """A file that is missing, unreadable or not what it should be. The text says which and why."""


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Returns:
        uint8 tensor of the shape the header states: [N, H, W] images, [N] labels.

    Raises:
        BadFile: unreadable, or header and length do not fit.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{path} cannot be read: {error}") from error
    if len(data) < 8 or data[:3] != b"\0\0\x08":
        raise BadFile(f"{path} is not an IDX file of bytes (it starts with {data[:4].hex()})")
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * k : 8 + 4 * k], "big") for k in range(rank)]
    if len(data) != 4 + 4 * rank + math.prod(shape):
        raise BadFile(f"{path} says shape {shape} but holds {len(data)} bytes")
    # bytearray: torch wants memory it may write to
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * rank).view(shape)


def write_idx(path: Path, values: Tensor) -> None:
    """Write a uint8 tensor as gzipped IDX, with no time stamp, so equal data give equal bytes."""
    header = b"\0\0\x08" + bytes([values.dim()])
    header += b"".join(size.to_bytes(4, "big") for size in values.shape)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, fileobj=raw, mtime=0) as f:
        f.write(header + values.contiguous().numpy().tobytes())


def sha256(values: Tensor) -> str:
    """SHA-256 of a uint8 tensor's elements in row-major order (no header)."""
    return hashlib.sha256(values.contiguous().numpy().data).hexdigest()
