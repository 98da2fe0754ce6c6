"""Several stores of the same samples, read as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from latentsmith.errors import UserError, nearest
from latentsmith.stores.base import FeatureStore, FieldSpec
from latentsmith.stores.cold import RowFiles
from latentsmith.stores.gather import gather_fields
from latentsmith.stores.keys import KeyTable
from latentsmith.stores.layout import row_bytes
from latentsmith.stores.shards import IN_MEMORY, ShardStore
from latentsmith.utils.digest import json_digest

Read = Literal["auto", "mmap", "pread"]
"""How rows of shards are read: by copying from the mapping, or by many reads at once. ``auto``
looks whether they are in memory, again and again. LMDB has its mapping only."""

LOOK_EVERY = 16
"""Batches between two looks while all is in memory."""


@dataclass(frozen=True)
class Member:
    """One store of several.

    Attributes:
        prefix: of its fields' names.
        fields: those that are read.
        rows: int64 [rows of the first store], its row of each; None: the same row.
    """

    store: FeatureStore
    prefix: str
    fields: tuple[str, ...]
    rows: Tensor | None

    def at(self, rows: Tensor) -> Tensor:
        """Its rows of rows of the first store."""
        return rows if self.rows is None else self.rows[rows]


class Joined:
    """Rows of one store, or of several joined by key.

    Args:
        stores: a store, or name → store. The first one's rows are the rows. Fields of store
            ``teacher`` are called ``teacher/tokens``; those of a store named ``""`` keep their
            names.
        fields: which to read, by these names; default all.
        rows: store name → its row of each row of the first store, int64 [N], instead of joining by
            key; -1 where it has none. For texts: `latentsmith.stores.texts.text_rows`.

    Attributes:
        members: the stores fields are read from.
        fields: name → shape and dtype.
        readable: int64 [n], rows that every store has values of, ascending.

    Raises:
        UserError: stores made from different data (both are named), samples one of them does not
            have, no such field, no row that all can give.
    """

    def __init__(
        self,
        stores: Mapping[str, FeatureStore] | FeatureStore,
        *,
        fields: Sequence[str] | None = None,
        rows: Mapping[str, Tensor] | None = None,
    ):
        named = dict(stores) if isinstance(stores, Mapping) else {"": stores}
        self.first = next(iter(named.values()))
        for name in rows or {}:
            if name not in named:
                raise ValueError(f"rows of store {name!r}, but there are only {list(named)}")
        known = {
            _prefix(name) + field: spec
            for name, store in named.items()
            for field, spec in store.manifest.fields.items()
        }
        if len(known) < sum(len(store.manifest.fields) for store in named.values()):
            raise ValueError(f"fields of {list(named)} have the same names: name the stores apart")
        for field in fields or ():
            if field not in known:
                raise UserError(f"the stores have no field {field!r}. {nearest(field, known)}")
        self.fields: dict[str, FieldSpec] = {n: known[n] for n in fields or known}
        self.members = [self._member(n, s, (rows or {}).get(n)) for n, s in named.items()]
        self.readable = self._readable()

    def _member(self, name: str, store: FeatureStore, rows: Tensor | None) -> Member:
        prefix = _prefix(name)
        own = tuple(f for f in store.manifest.fields if prefix + f in self.fields)
        if rows is None:
            rows = None if store is self.first else match(self.first, store)
        elif rows.shape != (len(self.first),) or bool((rows >= len(store)).any()):
            raise UserError(
                f"rows of {store.path} for {len(self.first)} samples of {self.first.path}: got "
                f"{list(rows.shape)}, up to {int(rows.max()) if len(rows) else 0} of {len(store)}"
            )
        return Member(store, prefix, own, rows)

    def _readable(self) -> Tensor:
        good = torch.ones(len(self.first), dtype=torch.bool)
        for member in self.members:
            there = torch.ones(len(member.store), dtype=torch.bool)
            there[list(member.store.unreadable)] = False
            if member.rows is None:
                good &= there
            else:
                good &= there[member.rows] & (member.rows >= 0)
        rows = good.nonzero().flatten()
        if not len(rows):
            names = ", ".join(str(member.store.path) for member in self.members)
            raise UserError(f"no sample could be read by all of the stores {names}")
        return rows

    def __len__(self) -> int:
        return len(self.readable)

    @property
    def total_bytes(self) -> int:
        """Of the fields that are read, all rows."""
        return sum(
            row_bytes(m.store.manifest.fields[f]) * len(m.store)
            for m in self.members
            for f in m.fields
        )

    def fingerprint(self) -> dict[str, Any]:
        """What the values, and which rows there are, depend on."""
        left_out = sorted(set(range(len(self.first))) - set(self.readable.tolist()))
        return {
            "stores": {m.prefix: m.store.manifest.fingerprint() for m in self.members},
            "fields": list(self.fields),
            "n": len(self),
            "left_out": json_digest(left_out) if left_out else None,
        }

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows int64 [B] of the first store in fresh memory: field → [B, …]."""
        found = {}
        for member in self.members:
            if member.fields:
                own = member.store.gather(member.at(rows), fields=member.fields)
                found |= {member.prefix + name: value for name, value in own.items()}
        return {name: found[name] for name in self.fields}


class JoinedReader:
    """Fills a ring's batches from joined stores; see `latentsmith.stores.ring.Filler`.

    Attributes:
        counts: batches by how their rows were read, of each store that can be read both ways.
    """

    def __init__(self, joined: Joined, read: Read = "auto"):
        self.joined, self.fields = joined, joined.fields
        self._readers = [StoreReader(m.store, m.fields, read) for m in joined.members if m.fields]
        self._members = [m for m in joined.members if m.fields]

    @property
    def counts(self) -> dict[str, int]:
        return {k: sum(r.counts[k] for r in self._readers) for k in ("mmap", "pread")}

    def fill(self, rows: Tensor, out: dict[str, Tensor]) -> None:
        """Rows of the first store into ``out``."""
        for member, reader in zip(self._members, self._readers, strict=True):
            own = {name: out[member.prefix + name] for name in member.fields}
            reader.fill(member.at(rows), own)

    def close(self) -> None:
        """End threads, close files; the stores stay as they are."""
        for reader in self._readers:
            reader.close()


class StoreReader:
    """Rows of one store into given memory, by the way that suits."""

    def __init__(self, store: FeatureStore, fields: Sequence[str], read: Read):
        self.store, self.fields, self.read = store, list(fields), read
        self.counts = {"mmap": 0, "pread": 0}
        self._files, self._warm, self._fills = None, False, 0
        specs = store.manifest.fields
        self._largest = max(self.fields, key=lambda name: row_bytes(specs[name]))
        large = row_bytes(specs[self._largest]) * len(store) > IN_MEMORY
        past_mapping = read == "pread" or (read == "auto" and large)
        if isinstance(store, ShardStore) and store.local and past_mapping:
            self._files = RowFiles(store.extents, store.layout.rows_per_shard)

    def fill(self, rows: Tensor, out: dict[str, Tensor]) -> None:
        """Rows int64 [B] of each field into ``out``."""
        if self._files is None or self._mapped(rows):
            self.counts["mmap"] += 1
            self.store.gather(rows, out, self.fields)
        else:
            self.counts["pread"] += 1
            gather_fields(self.store, rows, out, self.fields, self._files.copy, at_once=True)

    def _mapped(self, rows: Tensor) -> bool:
        if self.read == "pread" or self._files is None:
            return False
        self._fills += 1
        if not self._warm or self._fills % LOOK_EVERY == 0:
            self._warm = self._files.cached(self._largest, rows)
        return self._warm

    def close(self) -> None:
        """End threads, close files."""
        if self._files is not None:
            self._files.close()


def match(first: FeatureStore, other: FeatureStore) -> Tensor | None:
    """The row in ``other`` of each sample of ``first``, int64 [N]; None when rows are the same.

    Raises:
        UserError: they were made from different data, or ``other`` lacks samples.
    """
    sources = [store.manifest.source for store in (first, other)]
    if sources[0].get("digest") != sources[1].get("digest"):
        told = [f"{s.get('name')} (digest {str(s.get('digest'))[:12]})" for s in sources]
        raise UserError(
            f"{first.path} was made from {told[0]}, but {other.path} from {told[1]}: their samples "
            "are not the same. Make one of them again from the other's data"
        )
    keys, others = _table(first), _table(other)
    return None if keys.digest() == others.digest() else others.rows(list(keys), str(other.path))


def _table(store: FeatureStore) -> KeyTable:
    return store.keys if isinstance(store.keys, KeyTable) else KeyTable.of(store.keys)


def _prefix(name: str) -> str:
    return f"{name}/" if name else ""
