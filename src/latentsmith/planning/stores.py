"""What a store takes on disk, from its layout alone (`latentsmith.stores.layout`)."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from latentsmith.stores.base import FieldSpec, StoreManifest
from latentsmith.stores.layout import Layout, parts, row_bytes

SIDECAR, SIDECAR_FIELD, SHARD_ENTRY, MANIFEST = 180, 330, 110, 900
"""Bytes of a shard's JSON, of a float field's statistics in it, of a shard in the manifest, and of
the manifest besides: measured, they vary with the digits."""

PAGE, PAGE_HEADER = 4096, 16
NODE = 8
"""Bytes of LMDB before a key, and 2 in its page's index."""
INLINE = (PAGE - PAGE_HEADER) // 2 - 2
"""Largest record (node, key, value) that shares a page with others; larger ones have pages of
their own, and 8 bytes in the leaf say which."""
SMALL = (PAGE - PAGE_HEADER) // 16
"""Rows come nearly in the order of their keys. A full page of records up to this size is cut in
half, and the first half stays so; of larger ones, what fits into a page stays in it."""
SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "int64": "I64"}


@dataclass(frozen=True)
class StoreSize:
    """A store on disk.

    Attributes:
        rows, row: rows, and bytes of numbers in one.
        shards: files with rows. files: all files.
        keys, index: bytes of the names, and of all JSON.
        total: bytes of all files. lmdb: of the same store in LMDB.
    """

    rows: int
    row: int
    shards: int
    rows_per_shard: int
    files: int
    keys: int
    index: int
    total: int
    lmdb: int

    @property
    def payload(self) -> int:
        """Bytes of numbers."""
        return self.rows * self.row


def store_size(fields: Mapping[str, FieldSpec], rows: int, key_bytes: float = 7.0) -> StoreSize:
    """Of a store of so many rows, whose keys are of this length on average."""
    manifest = StoreManifest("latents", dict(fields), rows, {}, {})
    layout = Layout.choose(manifest, None, None)
    row = sum(row_bytes(spec) for spec in fields.values())
    floats = sum(spec.dtype.is_floating_point for spec in fields.values())
    keys = round(rows * (key_bytes + 3 * 8)) + 300
    sidecars = layout.shards * (SIDECAR + SIDECAR_FIELD * floats)
    index = sidecars + layout.shards * SHARD_ENTRY + MANIFEST
    heads = layout.shards * _header(fields, layout.rows_per_shard)
    return StoreSize(
        rows, row, layout.shards, layout.rows_per_shard, 2 * layout.shards + 3, keys, index,
        rows * row + heads + keys + index, _lmdb(fields, rows, key_bytes) + keys + sidecars,
    )  # fmt: skip


def _header(fields: Mapping[str, FieldSpec], rows: int) -> int:
    """Bytes before the numbers of a safetensors file, padded to 8."""
    found, offset = {}, 0
    for name, spec in fields.items():
        for part, (shape, stored) in parts(name, spec).items():
            end = offset + rows * row_bytes(FieldSpec(shape, "int64")) * _itemsize(stored) // 8
            found[part] = {
                "dtype": SAFETENSORS[stored], "shape": [rows, *shape],
                "data_offsets": [offset, end],
            }  # fmt: skip
            offset = end
    return 8 + -(-len(json.dumps(found, separators=(",", ":"))) // 8) * 8


def _itemsize(stored: str) -> int:
    return {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int64": 8}[stored]


def _lmdb(fields: Mapping[str, FieldSpec], rows: int, key_bytes: float) -> int:
    """Bytes of pages: of values with pages of their own, of leaves, of the tree above."""
    own, leaves = 0, 0.0
    for spec in fields.values():
        size, key = row_bytes(spec), key_bytes + (5 if len(fields) > 1 else 0)  # the field's suffix
        if NODE + key + size > INLINE:
            own += rows * math.ceil((PAGE_HEADER + size) / PAGE)
            size = 8
        leaves += rows / _in_page(NODE + key + size + 2)
    branches = leaves / _in_page(NODE + key_bytes + 2)
    return (own + math.ceil(leaves) + math.ceil(branches)) * PAGE


def _in_page(record: float) -> float:
    """How many records of a size a page holds in the end."""
    most = (PAGE - PAGE_HEADER) / record
    return most / 2 if record <= SMALL else math.floor(most)
