"""Writing a store shard by shard, so that it can be killed at any instant.

A shard is written aside, fsynced and renamed; then its sidecar in the same way. A shard counts
once its sidecar stands, so what a killed writer leaves behind is a set of whole shards and a list
of missing ones. Rank r of W begins with shards r, r + W, … and then takes over what others have not
begun (`latentsmith.stores.leases`); whoever goes on later may be of another number of ranks.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save, save_file
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import StoreManifest
from latentsmith.stores.encode import encode
from latentsmith.stores.keys import KeyTable
from latentsmith.stores.layout import (
    CLAIM,
    KEYS,
    MANIFEST,
    Layout,
    committed,
    read_json,
    seal,
    shard_file,
    sidecar_file,
)
from latentsmith.stores.leases import Leases
from latentsmith.stores.statistics import join
from latentsmith.utils.compare import differences
from latentsmith.utils.digest import state_digest
from latentsmith.utils.files import (
    atomic_path,
    fsync_folder,
    full_disk_is_told,
    remove_abandoned,
    write_json,
)

FULL_DISK = (
    "free some and run the same command again: it goes on with the shards that are missing "
    "(or move the folder to a larger disk first)"
)


class ShardWriter:
    """Writes one rank's shards of a store.

    Args:
        path: the store's folder; made if need be.
        manifest: what will be in it.
        keys: the sample of every row.
        rows_per_shard, shard_bytes: size of a shard; by default at most 128 MiB, and about 64
            shards or more unless they would have fewer than 256 rows. A store that was begun keeps
            its own.
        rank, world_size: of this writer.

    Attributes:
        layout: how rows are cut into shards.

    Raises:
        UserError: something else is being, or was, written to this folder (both sides are
            named), or keys are not unique or not as many as ``manifest.count``.
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
    ):
        self.path, self.manifest = Path(path), manifest
        self.rank, self.world_size = rank, world_size
        if len(keys) != manifest.count:
            raise ValueError(f"{len(keys)} keys for a store of {manifest.count} rows")
        self.keys = keys if isinstance(keys, KeyTable) else KeyTable.of(keys)
        wanted = {
            "manifest": manifest.to_json(),
            "keys": self.keys.digest(),
            "rows_per_shard": Layout.choose(manifest, rows_per_shard, shard_bytes).rows_per_shard,
        }
        self.path.mkdir(parents=True, exist_ok=True)
        with full_disk_is_told(self.path, FULL_DISK):
            self._claim = self._make_claim(wanted)
        self.layout = Layout(manifest.count, self._claim["rows_per_shard"])
        self.leases = Leases(self.path, alone=world_size == 1)
        own = [f(self.path, s).name for s in self.owned() for f in (shard_file, sidecar_file)]
        shared = [f"claim-{rank}.json", *([CLAIM, KEYS, MANIFEST] if rank == 0 else [])]
        remove_abandoned(self.path, {*own, *shared}, alone=world_size == 1)

    def _make_claim(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """State what will be written here, or find that it was stated before."""
        file = self.path / CLAIM
        if not file.exists():
            self._refuse_strangers()
            aside = self.path / f"claim-{self.rank}.json"
            write_json(aside, wanted)
            try:  # unlike a rename, a link fails when another rank was faster
                os.link(aside, file)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                write_json(file, wanted)
            aside.unlink()
            fsync_folder(self.path)
        there = read_json(file, "the claim")
        refuse_others(self.path, wanted, there)
        if not isinstance(there.get("rows_per_shard"), int):
            raise UserError(f"the claim {file} is damaged: remove {self.path}")
        return there

    def _refuse_strangers(self) -> None:
        found = [p.name for p in self.path.glob("shard-*")]
        begun = found or (self.path / MANIFEST).exists()
        if begun and not (self.path / CLAIM).exists():  # else another rank was faster
            raise UserError(
                f"{self.path} holds shards of a store but no {CLAIM} that says of which: choose "
                "another folder, or remove this one"
            )

    def owned(self) -> range:
        """Shards of this rank."""
        return range(self.rank, self.layout.shards, self.world_size)

    def missing(self) -> list[int]:
        """Shards this rank still owes."""
        return [shard for shard in self.owned() if committed(self.path, shard) is None]

    def take(self, shard: int) -> bool:
        """Whether this process now makes a shard: it is missing, and nobody else does."""
        if not self.leases.take(shard):
            return False
        if committed(self.path, shard) is not None:  # meanwhile
            self.leases.release(shard)
            return False
        return True

    def take_over(self) -> int | None:
        """A shard that nobody makes, now taken; None when there is none left.

        The last of other ranks first: its owner comes from the other end. Own ones, at last, are
        those that another had taken and left.
        """
        if self.leases.alone:
            return None
        absent = list(reversed(self.absent()))
        others = [shard for shard in absent if shard not in self.owned()]
        own = [shard for shard in absent if shard in self.owned()]
        return next((shard for shard in [*others, *own] if self.take(shard)), None)

    def absent(self) -> list[int]:
        """Shards that are missing, of any rank."""
        return [s for s in range(self.layout.shards) if committed(self.path, s) is None]

    def positions(self, shard: int) -> range:
        """Row numbers of a shard."""
        return self.layout.positions(shard)

    def write(
        self,
        shard: int,
        values: Mapping[str, Tensor],
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        """Commit a shard: when this returns, it survives a power failure.

        Args:
            values: field → [rows of the shard, …], on any device.
            unreadable: row number (of the store) → why its sample could not be read; its values
                are not looked at, and stored as zeros.

        Raises:
            UserError: NaN, infinity, or a number too large for how it is stored (the sample is
                named); the disk is full.
        """
        rows = self.positions(shard)
        encoded = encode(self.manifest, self.keys, rows, values, unreadable or {})
        file = shard_file(self.path, shard)
        with full_disk_is_told(self.path, FULL_DISK):
            sidecar_file(self.path, shard).unlink(missing_ok=True)  # of a shard made again
            with atomic_path(file) as tmp:
                save_file(encoded.tensors, tmp)
            sidecar = {
                "rows": [rows.start, rows.stop],
                "bytes": file.stat().st_size,
                "checksum": state_digest(encoded.tensors),
                "unreadable": encoded.unreadable,
                "statistics": encoded.statistics,
            }
            write_json(sidecar_file(self.path, shard), sidecar)
        self.leases.release(shard)

    def renew(self) -> None:
        """A sign of life to other ranks, between batches."""
        self.leases.renew()

    def close(self) -> None:
        """Give up shards that were begun."""
        self.leases.close()

    def finish(self) -> bool:
        """Join all ranks' shards: write the final manifest.

        Returns:
            Whether the store is finished; False while shards of any rank are missing.
        """
        shards = [committed(self.path, shard) for shard in range(self.layout.shards)]
        if any(shard is None for shard in shards):
            return False
        final = self._final([shard for shard in shards if shard is not None])
        with full_disk_is_told(self.path, FULL_DISK):
            self._write_keys()
            if _read(self.path / MANIFEST) != final:
                write_json(self.path / MANIFEST, final)
        self.leases.clear()
        remove_abandoned(self.path, set(), alone=True)
        return True

    def _write_keys(self) -> None:
        file = self.path / KEYS
        if not file.exists():
            with atomic_path(file) as tmp:
                # not save_file: another rank that finishes too would clear away its temporary file
                tmp.write_bytes(save(self.keys.arrays))

    def _final(self, shards: list[dict[str, Any]]) -> dict[str, Any]:
        own = [{k: shard[k] for k in ("bytes", "checksum")} for shard in shards]
        return seal(joined(self._claim, self.manifest, shards) | {"shards": own})


def refuse_others(path: Path, wanted: dict[str, Any], there: dict[str, Any]) -> None:
    """Raises UserError when a store of another manifest or other keys was begun at ``path``."""
    named = ("manifest", "keys")
    changed = differences({k: wanted[k] for k in named}, {k: there.get(k) for k in named})
    if changed:
        raise UserError(
            f"{path} holds another store: {'; '.join(changed)}. Choose another folder, or remove "
            "this one"
        )


def joined(
    claim: dict[str, Any], manifest: StoreManifest, sidecars: list[dict[str, Any]]
) -> dict[str, Any]:
    """The final manifest: what was claimed, and what all shards say."""
    unreadable: dict[str, str] = {}
    for sidecar in sidecars:
        unreadable |= sidecar["unreadable"]
    floats = [name for name, spec in manifest.fields.items() if spec.dtype.is_floating_point]
    return {
        **claim,
        "fingerprint": manifest.fingerprint(),
        "count": manifest.count,
        "readable": manifest.count - len(unreadable),
        "unreadable": unreadable,
        "statistics": {n: join([s["statistics"][n] for s in sidecars]) for n in floats},
    }


def _read(file: Path) -> Any:
    """A JSON file; None when there is none, or none that can be read."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
