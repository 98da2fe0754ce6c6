"""Reading a store of shards that lies elsewhere.

The manifest and the keys are fetched when it is opened, a shard when one of its rows is first
asked for, and kept on disk within a limit (`latentsmith.stores.remote.cache`). A store larger than
that is read by `StoreBatches` window by window, so that every shard comes once an epoch.
"""

import tempfile
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.layout import CLAIM, KEYS, MANIFEST, Extent, shard_file
from latentsmith.stores.remote.cache import ShardCache, limit_bytes
from latentsmith.stores.remote.place import Place
from latentsmith.stores.shards import ShardStore
from latentsmith.utils.cache import cache_root
from latentsmith.utils.digest import json_digest
from latentsmith.utils.files import atomic_path

MAPPED = 64
"""Shards mapped at once; a mapping of a file that gave way still takes its room on the disk."""


class RemoteStore(ShardStore):
    """A finished store of shards at a URL; see `latentsmith.stores.base.FeatureStore`.

    Args:
        url: of its folder, as ``s3://bucket/latents``.
        limit: bytes of this disk for shards of all remote stores; by default
            ``$LATENTSMITH_REMOTE_GB``, else 50 GB.

    Raises:
        UserError: nothing there, not finished, not reachable, or damaged.
    """

    local = False

    def __init__(self, url: str, *, limit: int | None = None):
        self.place = Place(url)
        manifest = self._manifest()
        # named by what it is, not only by where: another store may lie there tomorrow, and its
        # shards must not be taken for those that are on this disk already
        digest = json_digest([self.place.url, manifest])[:16]
        name = f"{self.place.url.rsplit('/', 1)[-1]}-{digest}"
        folder = cache_root() / "remote" / name
        with atomic_path(folder / MANIFEST) as tmp:
            tmp.write_text(manifest)
        self._fetch_small(folder, KEYS)
        self._limit = limit
        super().__init__(folder)
        if self.manifest.content == "text":  # whose texts lie beside the rows
            for file in self.place.sizes():
                if not file.startswith((".", "shard-", "claim")) and file not in (MANIFEST, KEYS):
                    self._fetch_small(folder, file)
        self._cache = ShardCache(name, limit)
        self._open: OrderedDict[tuple[int, str], Tensor] = OrderedDict()
        self._lock = Lock()

    def _manifest(self) -> str:
        """What lies there now."""
        if not self.place.has(MANIFEST):
            begun = self.place.has(CLAIM)
            what = f"is not finished, it has no {MANIFEST} yet" if begun else "holds no store"
            raise UserError(f"{self.place.url} {what}: `latentsmith cache copy` puts stores there")
        with tempfile.TemporaryDirectory() as aside:
            self.place.fetch(MANIFEST, Path(aside) / MANIFEST)
            return (Path(aside) / MANIFEST).read_text(errors="replace")

    def _fetch_small(self, folder: Path, file: str) -> None:
        with atomic_path(folder / file) as tmp:
            self.place.fetch(file, tmp)

    def _check_sizes(self) -> None:
        """Looked at when a shard is fetched."""

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_open": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": Lock()}

    @property
    def room(self) -> int:
        """Bytes of this disk that shards may take."""
        return limit_bytes() if self._limit is None else self._limit

    @property
    def shard_bytes(self) -> list[int]:
        """Of every shard's file."""
        return self._sizes

    def _copy(self, part: str, rows: Tensor, out: Tensor) -> None:
        """Rows of one stored tensor into ``out`` [B, …], shard by shard: each is mapped once."""
        shards = rows // self.layout.rows_per_shard
        for shard in shards.unique().tolist():
            places = (shards == shard).nonzero()[:, 0]
            local = rows[places] - shard * self.layout.rows_per_shard
            out.index_copy_(0, places, torch.index_select(self._mapped(shard, part), 0, local))

    def _mapped(self, shard: int, part: str) -> Tensor:
        with self._lock:
            table = self._open.pop((shard, part), None)
        if table is None:
            table = self._map(shard, part)
        with self._lock:
            self._open[shard, part] = table
            while len(self._open) > MAPPED:
                self._open.popitem(last=False)
        return table

    def _map(self, shard: int, part: str) -> Tensor:
        file = shard_file(self.path, shard).name
        self._cache.get(file, self._sizes[shard], lambda target: self.place.fetch(file, target))
        return super()._map(shard, part)

    def tables(self, part: str) -> list[Tensor]:
        """Never all at once. Raises ValueError."""
        raise ValueError(f"{self.place.url} lies elsewhere: gather rows of it")

    def extents(self, part: str) -> list[Extent]:
        """Files come and go. Raises ValueError."""
        raise ValueError(f"{self.place.url} lies elsewhere: gather rows of it")

    def close(self) -> None:
        """Let go of all mappings; fetched shards stay on the disk."""
        super().close()
        self._open = OrderedDict()
