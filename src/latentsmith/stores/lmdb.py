"""Stores in LMDB, the format of the sources: a record for every sample and field.

    {key}        the latents of a sample: raw float16, C order, nothing else
    {key}_mid    its teacher tokens

Other fields go by ``{key}_{field}``. What this library writes has records of its own besides, all
beginning with ``__latentsmith__``: the manifest, the keys in row order, and for every chunk of
rows what a shard's sidecar says. A file without them (the sources') is opened by stating what is
in it. An int8 field's record is codes, scales and offsets one after another.

LMDB has one writer, a B+tree walk for every record, and does not like network disks; shards are
the default for these reasons.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import Content, FieldSpec, StoreManifest
from latentsmith.stores.keys import KeyTable
from latentsmith.stores.layout import DAMAGE, Layout, check_seal, parts, row_bytes
from latentsmith.stores.lmdb_env import AGAIN, Environment, damage_is_told
from latentsmith.stores.quantize import dequantize
from latentsmith.stores.records import Records
from latentsmith.stores.rows import as_bytes, buffer, check_rows, chosen, refuse_unreadable

OWN = b"__latentsmith__"
CLAIM, MANIFEST, KEYS = OWN + b":claim", OWN + b":manifest", OWN + b":keys"
SUFFIXES = {"latent": "", "mean": "", "tokens": "_mid"}
"""What the sources append to a sample's key."""


def suffix_of(field: str) -> str:
    """What is appended to a key for a field."""
    return SUFFIXES.get(field, f"_{field}")


def chunk_key(chunk: int) -> bytes:
    """Where a chunk's sidecar lies."""
    return OWN + b":chunk:%05d" % chunk


class LmdbStore:
    """A finished store in LMDB; see `latentsmith.stores.base.FeatureStore`.

    Args:
        path: folder with data.mdb, or the file itself.
        fields: of a file this library did not write: name → shape and dtype of its records, e.g.
            ``{"latent": FieldSpec((4, 64, 64), "float16")}``. Its rows are its keys, sorted.
        suffixes: of such a file: field → what follows a sample's key, where it is not as above.

    Raises:
        UserError: not finished; not this library's, and no ``fields``; or records of another size.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fields: Mapping[str, FieldSpec] | None = None,
        suffixes: Mapping[str, str] | None = None,
    ):
        self.path = Path(path)
        self._env = Environment(self.path)
        self._keys: KeyTable | None = None
        self._names: list[bytes] = []
        self._records: dict[str, Records] = {}
        self._foreign = False
        self.unreadable: Mapping[int, str] = {}
        self.statistics: dict[str, Any] = {}
        self.checksums: list[str] = []
        self.stated: dict[str, str] = {}
        with damage_is_told(self.path), self._env.begin() as txn:
            own, claimed = txn.get(MANIFEST), txn.get(CLAIM)
            if own is not None:
                self._read_own(json.loads(bytes(own)))
            elif claimed is not None:
                raise UserError(unfinished(self.path, txn))
            elif fields is None:
                raise UserError(
                    f"{self.path} is an LMDB file that says nothing about its values: open it with "
                    "LmdbStore(path, fields={'latent': FieldSpec((4, 64, 64), 'float16')}), or "
                    "whatever its records are"
                )
        self._suffixes = {n: suffix_of(n) for n in (fields or self.manifest.fields)}
        self._suffixes |= dict(suffixes or {})
        if own is None and fields is not None:
            self._look_into(fields)

    def _read_own(self, final: dict[str, Any]) -> None:
        check_seal(final)
        self.manifest = StoreManifest.from_json(final["manifest"])
        self.layout = Layout(self.manifest.count, final["rows_per_shard"])
        self.unreadable = {int(row): text for row, text in final["unreadable"].items()}
        self.statistics = final["statistics"]
        self.checksums = [shard["checksum"] for shard in final["shards"]]
        self.stated = {"manifest": final["fingerprint"], "keys": final["keys"]}

    def _look_into(self, fields: Mapping[str, FieldSpec]) -> None:
        """A stranger's file: its keys, and whether its records can be what they are said to be."""
        self._foreign = True
        with self._env.begin() as txn:
            self._keys = KeyTable.of(sorted(_samples(txn, self._suffixes)))
            if not len(self._keys):
                raise UserError(f"{self.path} holds no record whose key ends as {self._suffixes}")
            content: Content = "tokens" if set(fields) == {"tokens"} else "latents"
            count = len(self._keys)
            source = {"name": self.path.name, "digest": self._keys.digest(), "count": count}
            self.manifest = StoreManifest(content, dict(fields), count, {}, source)
            self.layout = Layout.choose(self.manifest, None, None)
            for name, spec in fields.items():
                self._sized(name, spec, self._keys[0], txn.get(self._record(0, name)))

    def __getstate__(self) -> dict[str, Any]:
        own = {} if self._foreign else {"_keys": None}  # a stranger's are found by a long walk
        return self.__dict__ | {"_names": [], "_records": {}} | own

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def keys(self) -> KeyTable:
        """The sample of every row, in row order."""
        if self._keys is None:
            try:
                with damage_is_told(self.path), self._env.begin() as txn:
                    arrays = safetensors.torch.load(bytes(txn.get(KEYS)))
                self._keys = KeyTable(arrays)
            except DAMAGE as error:
                raise UserError(
                    f"{self.path}: its list of keys is damaged ({error!r}): {AGAIN}"
                ) from None
        return self._keys

    def rows(self, keys: Sequence[str]) -> Tensor:
        """See `FeatureStore.rows`."""
        found = self.keys.rows(keys, str(self.path))
        refuse_unreadable(self, found)
        return found

    def _record(self, row: int, field: str) -> bytes:
        if not self._names:
            self._names = [name.encode() for name in self.keys]
        return self._names[row] + self._suffixes[field].encode()

    def _sized(self, name: str, spec: FieldSpec, key: str, value: Any) -> Any:
        """A record, of the right size."""
        if value is None:
            raise UserError(f"{self.path} has no {name} of sample {key!r}")
        if len(value) != row_bytes(spec):
            raise UserError(
                f"{self.path}: {name} of sample {key!r} has {len(value):,} bytes, but "
                f"{list(spec.shape)} {spec.stored} are {row_bytes(spec):,}"
            )
        return value

    def gather(
        self,
        rows: Tensor,
        out: dict[str, Tensor] | None = None,
        fields: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """See `FeatureStore.gather`. Several threads may gather at once."""
        check_rows(self, rows)
        result = {}
        for name in chosen(self.manifest.fields, fields, self.path):
            spec = self.manifest.fields[name]
            result[name] = buffer(out, name, spec, len(rows))
            if spec.stored == "int8":
                dequantize(*self._parts(name, rows.tolist()).values(), out=result[name])
            else:
                self._copy(name, rows.tolist(), as_bytes(result[name]))
        return result

    def _copy(self, name: str, rows: list[int], target: np.ndarray) -> None:
        """Records of a field into ``target`` uint8 [B, bytes of a record]."""
        env = self._env.here()  # held until the end: another thread may close meanwhile
        known = self._records.get(name)
        if known is None or not known.of(env):
            known = self._records[name] = Records(env, len(self), target.shape[1])
        find = functools.partial(self._find, name)
        with damage_is_told(self.path):
            known.copy(np.array(rows, dtype=np.int64), target, find)

    def _find(self, name: str, txn: Any, row: int) -> Any:
        value = txn.get(self._record(row, name))
        return self._sized(name, self.manifest.fields[name], self.keys[row], value)

    def _parts(self, name: str, rows: list[int]) -> dict[str, Tensor]:
        """The stored tensors of a field, as `latentsmith.stores.layout.parts` names them."""
        spec = self.manifest.fields[name]
        raw = torch.empty((len(rows), row_bytes(spec)), dtype=torch.uint8)
        self._copy(name, rows, raw.numpy())
        found, begin = {}, 0
        for part, (shape, dtype) in parts(name, spec).items():
            empty = torch.empty((len(rows), *shape), dtype=getattr(torch, dtype))
            own = as_bytes(empty)
            own[:] = raw[:, begin : begin + own.shape[1]].numpy()
            begin += own.shape[1]
            found[part] = empty
        return found

    def stored(self, shard: int) -> dict[str, Tensor]:
        """What `verify` looks at: a chunk's tensors as they are stored, zeros for unreadable
        samples."""
        rows = self.layout.positions(shard)
        readable = [row for row in rows if row not in self.unreadable]
        at = torch.tensor([row - rows.start for row in readable], dtype=torch.int64)
        found = {}
        for name in self.manifest.fields:
            for part, values in self._parts(name, readable).items():
                whole = values.new_zeros((len(rows), *values.shape[1:]))
                found[part] = whole.index_copy_(0, at, values)
        return found

    def close(self) -> None:
        """Let go of the file; the next `gather` opens it again."""
        self._records = {}
        self._env.close()


def _samples(txn: Any, suffixes: Mapping[str, str]) -> Iterator[str]:
    """Keys of samples: records of the first field, without its suffix."""
    first, *others = suffixes.values()
    for raw in txn.cursor().iternext(keys=True, values=False):
        key = bytes(raw)
        other = any(s and key.endswith(s.encode()) for s in others)
        if key.endswith(first.encode()) and not other and not key.startswith(OWN):
            yield key[: len(key) - len(first.encode())].decode()


def unfinished(path: Path, txn: Any) -> str:
    """What is missing in a store that was begun."""
    claim = json.loads(bytes(txn.get(CLAIM)))
    layout = Layout(claim["manifest"]["count"], claim["rows_per_shard"])
    missing = sum(txn.get(chunk_key(chunk)) is None for chunk in range(layout.shards))
    return (
        f"the store {path} is not finished, {missing} of {layout.shards} parts are missing: run "
        "the command that writes it again, it goes on where it stopped"
    )
