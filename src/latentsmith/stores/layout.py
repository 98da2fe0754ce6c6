"""Which files a store of shards consists of.

claim.json              what is being written here, and how rows are cut into shards
keys.safetensors        the key of every row
shard-00000.safetensors rows 0 … n-1 of every field
shard-00000.json        its rows, checksum, statistics, unreadable samples: written last, so
                        that a shard without it does not count
manifest.json           all of it joined: a store with it is finished
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from latentsmith.errors import UserError
from latentsmith.stores.base import FieldSpec, StoreManifest
from latentsmith.stores.quantize import OFFSET, SCALE, channel_shape
from latentsmith.utils.digest import json_digest

CLAIM, MANIFEST, KEYS = "claim.json", "manifest.json", "keys.safetensors"

SHARD_BYTES = 128 << 20
"""A shard holds about so much: large enough that opening many costs nothing, small enough that
it fits twice in memory while it is filled and written."""

SHARDS = 64
"""Small stores too are cut into about so many: what is being computed when the power fails is
lost, and ranks share the work by shards."""

FEWEST_ROWS = 256
"""…but not into smaller ones."""

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int64": 8}

DAMAGE = (OSError, SafetensorError, KeyError, TypeError, ValueError)
"""What reading a damaged file of a store raises."""


@dataclass(frozen=True)
class Layout:
    """How ``rows`` rows are cut into shards."""

    rows: int
    rows_per_shard: int

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.rows // self.rows_per_shard)

    def positions(self, shard: int) -> range:
        """Row numbers of a shard."""
        begin = shard * self.rows_per_shard
        return range(begin, min(begin + self.rows_per_shard, self.rows))

    @classmethod
    def choose(
        cls, manifest: StoreManifest, rows_per_shard: int | None, shard_bytes: int | None
    ) -> "Layout":
        """The cut that was asked for, else a sensible one."""
        if rows_per_shard is None:
            one = max(sum(row_bytes(spec) for spec in manifest.fields.values()), 1)
            rows_per_shard = (shard_bytes or SHARD_BYTES) // one
            if shard_bytes is None:
                rows_per_shard = min(rows_per_shard, max(FEWEST_ROWS, -(-manifest.count // SHARDS)))
        return cls(manifest.count, max(rows_per_shard, 1))


def numel(shape: tuple[int, ...]) -> int:
    """Numbers in a row."""
    total = 1
    for size in shape:
        total *= size
    return total


def row_bytes(spec: FieldSpec) -> int:
    """Bytes of a row on disk, int8's scales included."""
    values = numel(spec.shape) * ITEM_BYTES[spec.stored]
    return values + (8 * numel(channel_shape(spec.shape)) if spec.stored == "int8" else 0)


def parts(name: str, spec: FieldSpec) -> dict[str, tuple[tuple[int, ...], str]]:
    """Tensors a field lies in, name → shape of a row and dtype."""
    own = {name: (spec.shape, spec.stored)}
    if spec.stored == "int8":
        channels = channel_shape(spec.shape)
        own |= {name + SCALE: (channels, "float32"), name + OFFSET: (channels, "float32")}
    return own


def shard_file(path: Path, shard: int) -> Path:
    """The tensors of a shard."""
    return path / f"shard-{shard:05d}.safetensors"


def sidecar_file(path: Path, shard: int) -> Path:
    """What is known about a shard."""
    return path / f"shard-{shard:05d}.json"


def read_json(file: Path, what: str) -> dict[str, Any]:
    """A file of the store. Raises UserError when it cannot be read."""
    try:
        value = json.loads(file.read_text())
        if not isinstance(value, dict):
            raise ValueError("no object in it")
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {file} is damaged ({error}): remove it, and write again") from None
    return value


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON-able dict with the digest of all that is in it."""
    return value | {"seal": json_digest(value)}


def check_seal(value: dict[str, Any]) -> None:
    """Raises ValueError when anything but the seal of `seal`'s dict has changed. Older ones have
    none."""
    rest = {name: part for name, part in value.items() if name != "seal"}
    if value.get("seal", known := json_digest(rest)) != known:
        raise ValueError("it does not match its digest: it was edited, or bytes of it changed")


def committed(path: Path, shard: int) -> dict[str, Any] | None:
    """The sidecar of a shard that was written to its end; None when it was not."""
    try:
        known = json.loads(sidecar_file(path, shard).read_text())
        complete = shard_file(path, shard).stat().st_size == known["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if complete else None


@dataclass(frozen=True)
class Extent:
    """Where the rows of one tensor lie in a file: row i at ``offset + i * row_bytes``."""

    file: Path
    offset: int
    rows: int
    row_bytes: int


def extents(path: Path, layout: Layout, name: str) -> list[Extent]:
    """Of each shard, where a tensor lies, for readers that bypass the mapping."""
    found = []
    for shard in range(layout.shards):
        file = shard_file(path, shard)
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            begin, end = json.loads(stream.read(size))[name]["data_offsets"]
        rows = len(layout.positions(shard))
        found.append(Extent(file, 8 + size + begin, rows, (end - begin) // rows))
    return found
