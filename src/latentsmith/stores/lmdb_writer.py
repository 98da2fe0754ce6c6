"""Writing a store in LMDB: each chunk of rows is one transaction, with its sidecar in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import StoreManifest
from latentsmith.stores.encode import Encoded, encode
from latentsmith.stores.keys import KeyTable
from latentsmith.stores.layout import Layout, parts, row_bytes, seal
from latentsmith.stores.lmdb import CLAIM, KEYS, MANIFEST, OWN, LmdbStore, chunk_key, suffix_of
from latentsmith.stores.lmdb_env import damage_is_told, writable
from latentsmith.stores.rows import as_bytes
from latentsmith.stores.writer import FULL_DISK, joined, refuse_others
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import full_disk_is_told

LONGEST_KEY = 511
"""Bytes; fixed when LMDB is compiled."""

SMALLEST_MAP = 1 << 24


def is_finished(path: Path, manifest: StoreManifest, keys: Sequence[str]) -> bool:
    """Whether this very store lies at ``path``. Asked before a writer is made, which could not
    open what is open for reading in this process."""
    if not (path / "data.mdb").is_file():
        return False
    try:
        store = LmdbStore(path)
    except UserError:
        return False
    return store.manifest == manifest and store.keys == keys


class LmdbWriter:
    """Writes a store in LMDB, in chunks that are committed one by one; resumes like `ShardWriter`.

    Args:
        path: folder for data.mdb; made if need be.
        manifest: what will be in it.
        keys: the sample of every row, of at most 511 bytes with the field's suffix.
        rows_per_shard, shard_bytes: of a chunk, as for `ShardWriter`.
        rank, world_size: 0 and 1: LMDB has one writer.
        map_size: bytes to begin with; it grows as needed, by half and more.

    Raises:
        UserError: several ranks, another store at ``path``, keys that are too long, not unique, or
            of which one with a suffix is another.
    """

    def __init__(
        self,
        path: Path | str,
        manifest: StoreManifest,
        keys: Sequence[str],
        *,
        rows_per_shard: int | None = None,
        shard_bytes: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        map_size: int | None = None,
    ):
        self.path, self.manifest = Path(path), manifest
        if world_size != 1 or rank != 0:
            raise UserError(
                f"{world_size} processes cannot write one LMDB store: write shards, and convert "
                "them (latentsmith cache convert STORE OUT --to lmdb)"
            )
        if len(keys) != manifest.count:
            raise ValueError(f"{len(keys)} keys for a store of {manifest.count} rows")
        self.keys = keys if isinstance(keys, KeyTable) else KeyTable.of(keys)
        self._names = [name.encode() for name in self.keys]
        self._suffixes = {name: suffix_of(name).encode() for name in manifest.fields}
        self._check_keys()
        wanted = {
            "manifest": manifest.to_json(),
            "keys": self.keys.digest(),
            "rows_per_shard": Layout.choose(manifest, rows_per_shard, shard_bytes).rows_per_shard,
        }
        one = sum(row_bytes(spec) for spec in manifest.fields.values())
        # records of less than half a page share pages, others have their own
        room = SMALLEST_MAP + manifest.count * len(manifest.fields) * 8192 + manifest.count * one
        self.path.mkdir(parents=True, exist_ok=True)
        with full_disk_is_told(self.path, FULL_DISK):
            self._env: Any = writable(self.path, map_size or room)
            self._claim = self._make_claim(wanted)
        self.layout = Layout(manifest.count, self._claim["rows_per_shard"])

    def _check_keys(self) -> None:
        longest = max(self._names, key=len, default=b"")
        suffix = max(self._suffixes.values(), key=len, default=b"")
        if len(longest) + len(suffix) > LONGEST_KEY:
            raise UserError(
                f"the key {longest.decode()[:60]!r}… has {len(longest):,} bytes, and LMDB takes "
                f"{LONGEST_KEY - len(suffix)}: write shards"
            )
        if any(name.startswith(OWN) for name in self._names):
            raise UserError(f"keys must not begin with {OWN.decode()}, which is the store's own")
        if len(self._suffixes) < 2:
            return
        known = set(self._names)
        for a in self._suffixes.values():
            for b in self._suffixes.values():
                # "x" + "_mid" is also "x_mid" + ""
                both = [n for n in self._names if a != b and (n + a).endswith(b)]
                for name in both:
                    if (name + a)[: len(name + a) - len(b)] in known:
                        raise UserError(
                            f"samples {name.decode()!r} and "
                            f"{(name + a)[: len(name + a) - len(b)].decode()!r} would share a "
                            "record: write shards, or give other keys"
                        )

    def _make_claim(self, wanted: dict[str, Any]) -> dict[str, Any]:
        with self._env.begin() as txn:
            there = txn.get(CLAIM)
            strange = there is None and txn.stat()["entries"] > 0
        if strange:
            raise UserError(
                f"{self.path} holds an LMDB file of somebody else: choose another folder"
            )
        if there is None:
            blob = safetensors.torch.save(self.keys.arrays)
            self._put([(CLAIM, json.dumps(wanted).encode()), (KEYS, blob)])
            return wanted
        with damage_is_told(self.path):
            claim = json.loads(there)
        refuse_others(self.path, wanted, claim)
        return claim

    def _put(self, records: list[tuple[bytes, Any]]) -> None:
        """All records in one transaction; the map grows until they fit."""
        import lmdb

        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for key, value in records:
                        txn.put(key, value)
                return
            except lmdb.MapFullError:
                size = sum(len(value) + 8192 for _, value in records)
                old = self._env.info()["map_size"]
                self._env.set_mapsize(-(-max(old + size, old * 3 // 2) // 4096) * 4096)

    def _sidecar(self, shard: int) -> dict[str, Any] | None:
        with self._env.begin() as txn:
            found = txn.get(chunk_key(shard))
        try:
            return None if found is None else json.loads(found)
        except ValueError:  # damaged: the chunk is made again
            return None

    def absent(self) -> list[int]:
        """Chunks that are missing."""
        return [shard for shard in range(self.layout.shards) if self._sidecar(shard) is None]

    def missing(self) -> list[int]:
        """Chunks that are missing."""
        return self.absent()

    def positions(self, shard: int) -> range:
        """Row numbers of a chunk."""
        return self.layout.positions(shard)

    def write(
        self,
        shard: int,
        values: Mapping[str, Tensor],
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        """Commit a chunk; arguments, errors and promise as `ShardWriter.write`."""
        rows = self.positions(shard)
        encoded = encode(self.manifest, self.keys, rows, values, unreadable or {})
        records = self._records(rows, encoded)
        sidecar = {
            "rows": [rows.start, rows.stop],
            "checksum": state_digest(encoded.tensors),
            "unreadable": encoded.unreadable,
            "statistics": encoded.statistics,
        }
        with full_disk_is_told(self.path, FULL_DISK):
            self._put([*records, (chunk_key(shard), json.dumps(sidecar).encode())])

    def _records(self, rows: range, encoded: Encoded) -> list[tuple[bytes, Any]]:
        records = []
        for name, spec in self.manifest.fields.items():
            own = [as_bytes(encoded.tensors[part]) for part in parts(name, spec)]
            for i, row in enumerate(rows):
                if str(row) not in encoded.unreadable:
                    value = own[0][i].data if len(own) == 1 else b"".join(p[i].data for p in own)
                    records.append((self._names[row] + self._suffixes[name], value))
        return records

    def finish(self) -> bool:
        """Write the final manifest and close the file; False while chunks are missing."""
        sidecars = [self._sidecar(shard) for shard in range(self.layout.shards)]
        if any(sidecar is None for sidecar in sidecars):
            return False
        known = [sidecar for sidecar in sidecars if sidecar is not None]
        final = joined(self._claim, self.manifest, known)
        final["shards"] = [{"checksum": sidecar["checksum"]} for sidecar in known]
        with full_disk_is_told(self.path, FULL_DISK):
            self._put([(MANIFEST, json.dumps(seal(final)).encode())])
        self.close()
        return True

    def take(self, shard: int) -> bool:
        """True: there is no other writer."""
        return True

    def take_over(self) -> None:
        """Nothing: there is no other writer."""
        return

    def renew(self) -> None:
        """Nobody waits for a sign of life."""

    def close(self) -> None:
        """Let go of the file, which nobody else in this process can open meanwhile."""
        self._env.close()
