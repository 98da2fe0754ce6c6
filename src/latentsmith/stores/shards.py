"""Reading a store of safetensors shards.

Files are mapped, not read: a shard's tensor is a view of the page cache, and gathering a batch is
one copy of each row. Nothing is opened until the first `gather`, and nothing that is open travels
with a pickle; a mapping may be inherited over fork.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import StoreManifest
from latentsmith.stores.gather import RowTables, gather_fields
from latentsmith.stores.keys import KeyTable
from latentsmith.stores.layout import (
    DAMAGE,
    KEYS,
    MANIFEST,
    Extent,
    Layout,
    check_seal,
    extents,
    parts,
    read_json,
    shard_file,
)
from latentsmith.stores.rows import refuse_unreadable

IN_MEMORY = 32 << 20
"""A tensor of at most so many bytes over all shards is copied into memory on first use: labels
and tiny latents are gathered faster from one piece."""


class ShardStore:
    """A finished store of shards; see `latentsmith.stores.base.FeatureStore`.

    Args:
        path: its folder.

    Attributes:
        local: whether its files lie on this machine, to be mapped at once.
        layout: how rows are cut into shards.
        statistics: field → `latentsmith.stores.statistics.Statistics`.
        stated, checksums: what manifest, keys and shards must hash to; `verify_store` looks.

    Raises:
        UserError: not finished, damaged, or a shard is missing.
    """

    local = True

    def __init__(self, path: Path | str):
        self.path = Path(path)
        final = read_json(self.path / MANIFEST, "the manifest")
        try:
            check_seal(final)
            self.manifest = StoreManifest.from_json(final["manifest"])
            self.layout = Layout(self.manifest.count, final["rows_per_shard"])
            self.unreadable: Mapping[int, str] = {int(r): t for r, t in final["unreadable"].items()}
            self.statistics: dict[str, Any] = final["statistics"]
            self.stated = {"manifest": str(final["fingerprint"]), "keys": str(final["keys"])}
            self.checksums: list[str] = [shard["checksum"] for shard in final["shards"]]
            self._sizes: list[int] = [shard["bytes"] for shard in final["shards"]]
        except DAMAGE as error:
            raise UserError(
                f"the manifest {self.path / MANIFEST} is damaged ({error!r}): remove it and run "
                "the command that wrote the store again; no shard is computed twice"
            ) from None
        self._check_sizes()
        self._keys: KeyTable | None = None
        self._tables: dict[str, list[Tensor]] = {}
        self._gathered: dict[str, RowTables] = {}

    def _check_sizes(self) -> None:
        """A mapped file that is too short kills the process that reads beyond its end."""
        for shard, size in enumerate(self._sizes):
            file = shard_file(self.path, shard)
            found = file.stat().st_size if file.exists() else None
            if found != size:
                what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
                raise UserError(
                    f"{file} {what}: run the command that wrote the store again, it makes what is "
                    "missing"
                )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_keys": None, "_tables": {}, "_gathered": {}}

    def __len__(self) -> int:
        return self.layout.rows

    @property
    def keys(self) -> KeyTable:
        """The sample of every row, in row order."""
        if self._keys is None:
            try:
                self._keys = KeyTable(load_file(self.path / KEYS))
            except DAMAGE as error:
                raise UserError(
                    f"{self.path / KEYS} is damaged ({error}): remove it and {MANIFEST}, and run "
                    "the command that wrote the store again; no shard is computed twice"
                ) from None
        return self._keys

    def rows(self, keys: Sequence[str]) -> Tensor:
        """See `FeatureStore.rows`."""
        found = self.keys.rows(keys, str(self.path))
        refuse_unreadable(self, found)
        return found

    def gather(
        self,
        rows: Tensor,
        out: dict[str, Tensor] | None = None,
        fields: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """See `FeatureStore.gather`. Several threads may gather at once."""
        return gather_fields(self, rows, out, fields, self._copy)

    def _copy(self, part: str, rows: Tensor, out: Tensor) -> None:
        """Rows of one stored tensor into ``out`` [B, …]."""
        found = self._gathered.get(part)
        if found is None:
            found = self._gathered[part] = RowTables(self.tables(part), self.layout.rows_per_shard)
        found.copy(rows, out)

    def tables(self, part: str) -> list[Tensor]:
        """A stored tensor as views [rows of the shard, …] of each shard's mapping; one piece [N, …]
        in memory when it is small. For int8, ``name``, ``name.scale`` and ``name.offset``."""
        if part not in self._tables:
            tables = [self._map(shard, part) for shard in range(self.layout.shards)]
            if sum(t.numel() * t.element_size() for t in tables) <= IN_MEMORY:
                tables = [torch.cat(tables)]
            self._tables[part] = tables
        return self._tables[part]

    def _map(self, shard: int, part: str) -> Tensor:
        file = shard_file(self.path, shard)
        try:
            with safe_open(file, "pt") as opened:
                return opened.get_tensor(part)
        except DAMAGE as error:
            raise UserError(
                f"{file} is damaged ({error}): remove it, and run the command that wrote the "
                "store again; it makes this shard only"
            ) from None

    def stored(self, shard: int) -> dict[str, Tensor]:
        """What `verify` looks at: a shard's tensors as they are stored, zeros for unreadable
        samples."""
        fields = self.manifest.fields.items()
        return {part: self._map(shard, part) for n, spec in fields for part in parts(n, spec)}

    def extents(self, part: str) -> list[Extent]:
        """Where the rows of a stored tensor lie in the files, for readers that bypass mappings."""
        return extents(self.path, self.layout, part)

    def close(self) -> None:
        """Let go of all mappings; the next `gather` opens them again."""
        self._keys, self._tables, self._gathered = None, {}, {}
