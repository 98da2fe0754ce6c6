"""Does a store hold what it says? Every byte is read."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from latentsmith.errors import UserError
from latentsmith.stores.base import FieldSpec, open_store
from latentsmith.stores.keys import listed
from latentsmith.stores.layout import (
    CLAIM,
    DAMAGE,
    KEYS,
    MANIFEST,
    Layout,
    committed,
    shard_file,
    sidecar_file,
)
from latentsmith.stores.lmdb import LmdbStore
from latentsmith.stores.quantize import OFFSET, SCALE, dequantize
from latentsmith.stores.remote.place import is_url
from latentsmith.stores.shards import ShardStore
from latentsmith.stores.statistics import not_finite, vectors
from latentsmith.utils.digest import state_digest

UNIT_TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1e-2, "int8": 5e-2}
"""How far a unit vector's norm may be from 1, by how it is stored: its rounding errors, which for
a thousand numbers mostly cancel, and some more."""

Progress = Callable[[int, int], None]
"""Called with (rows looked at, rows in all)."""


@dataclass
class Verification:
    """What was found.

    Attributes:
        path: of the store.
        rows: how many were looked at.
        unreadable: how many samples the store has no values of (and says so).
        problems: a sentence each; empty for a good store.
        damaged: shards whose bytes are not what was written; see `discard`.
    """

    path: Path
    rows: int = 0
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def raise_for_problems(self) -> None:
        """Raises UserError with every problem, if there is any."""
        if self.problems:
            raise UserError(f"{self.path}:\n" + "\n".join(f"  {text}" for text in self.problems))


def verify_store(
    store: ShardStore | LmdbStore | Path | str, *, progress: Progress | None = None
) -> Verification:
    """Read a whole store and check it.

    * complete: every shard is there, every row has a key, every key is found again;
    * undamaged: each shard's bytes match the checksum written with them, and the manifest its
      digest;
    * finite: no NaN, no infinity;
    * norms: teacher tokens, text embeddings and unit vectors (``manifest.extra["unit"]``) are not
      zero, and unit ones are of length 1.

    Problems name samples and shards. A store that cannot be opened at all is a problem too; only a
    path without a store raises UserError.
    """
    if isinstance(store, Path | str):
        path = Path(store)
        if not is_url(store) and not path.exists():
            raise UserError(f"no store at {path}: no such folder")
        if why := _kills(path):
            return Verification(path, problems=[why])
        try:
            opened = cast(ShardStore | LmdbStore, open_store(store))
        except UserError as error:
            if is_url(store):
                raise
            return Verification(path, problems=[str(error)], damaged=_incomplete(path))
    else:
        opened = store
    return _Check(opened).run(progress)


def _kills(path: Path) -> str:
    """What is wrong with an LMDB file that this process had better not read."""
    from latentsmith.stores.lmdb_env import AGAIN, what_kills

    if not (path / "data.mdb").is_file() and path.suffix not in (".mdb", ".lmdb"):
        return ""
    why = what_kills(path)
    return f"{path} is damaged ({why}): {AGAIN}" if why else ""


def _incomplete(path: Path) -> list[int]:
    """Shards that are missing, or not as long as they were."""
    try:
        claim = json.loads((path / CLAIM).read_text())
        shards = Layout(claim["manifest"]["count"], claim["rows_per_shard"]).shards
    except DAMAGE:
        return []
    return [shard for shard in range(shards) if committed(path, shard) is None]


def discard(found: Verification) -> None:
    """Remove what is damaged of a store of shards, so that the command that wrote it makes that
    again, and that only. Does nothing to a good store."""
    if found.problems:  # both are made from the shards that stay
        (found.path / MANIFEST).unlink(missing_ok=True)
        (found.path / KEYS).unlink(missing_ok=True)
    for shard in found.damaged:
        sidecar_file(found.path, shard).unlink(missing_ok=True)
        shard_file(found.path, shard).unlink(missing_ok=True)


class _Check:
    """One verification; see `verify_store`."""

    def __init__(self, store: ShardStore | LmdbStore):
        self.store = store
        self.found = Verification(Path(store.path), unreadable=len(store.unreadable))
        self.named = True  # unless the names of rows are damaged

    def say(self, text: str) -> None:
        self.found.problems.append(text)

    def run(self, progress: Progress | None) -> Verification:
        sums = self.store.checksums
        self.manifest()
        self.keys()
        for shard in range(self.store.layout.shards):
            rows = self.store.layout.positions(shard)
            try:
                tensors = self.store.stored(shard)
            except UserError as error:
                self.say(str(error))
                self.found.damaged.append(shard)
                continue
            if sums and state_digest(tensors) != sums[shard]:
                self.say(
                    f"shard {shard} (rows {rows.start} to {rows.stop - 1}) does not match its "
                    "checksum: its bytes changed after it was written"
                )
                self.found.damaged.append(shard)
            for name, spec in self.store.manifest.fields.items():
                self.values(name, spec, tensors, rows)
            self.found.rows += len(rows)
            if progress is not None:
                progress(self.found.rows, len(self.store))
        return self.found

    def manifest(self) -> None:
        own = self.store.manifest.fingerprint()
        if self.store.stated.get("manifest", own) != own:
            self.say("the manifest does not match its digest: it was edited")

    def keys(self) -> None:
        try:
            keys = self.store.keys
        except UserError as error:
            self.say(str(error))
            self.named = False
            return
        if len(keys) != len(self.store):
            self.say(f"{len(self.store):,} rows, but {len(keys):,} keys")
        own = keys.digest()
        if self.store.stated.get("keys", own) != own:
            self.say(f"the keys ({KEYS}) are not those the manifest was written with")
            self.named = False
            return
        try:
            lost = [key for row, key in enumerate(keys) if keys.find(key) != row]
        except IndexError:  # rows that there are not
            lost = list(keys)
        if lost:
            self.say(f"keys {listed(lost)} are not found where they are ({KEYS})")

    def values(self, name: str, spec: FieldSpec, tensors: dict[str, Tensor], rows: range) -> None:
        if not spec.dtype.is_floating_point:
            return
        values = tensors[name]
        if spec.stored == "int8":
            values = dequantize(values, tensors[name + SCALE], tensors[name + OFFSET])
        readable = torch.tensor([row not in self.store.unreadable for row in rows])
        bad = not_finite(values)
        self.report(f"{name} is NaN or infinite", bad, rows)
        manifest = self.store.manifest
        unit = bool(manifest.extra.get("unit"))
        if not unit and manifest.content not in ("tokens", "text"):
            return
        norms = vectors(values.float(), manifest.content).norm(dim=-1)  # [n, m]
        zero = norms == 0
        if "mask" in tensors:  # what is padded away may be anything
            zero &= tensors["mask"].reshape(len(rows), -1)[:, : zero.shape[1]] != 0
        self.report(f"{name} has a zero vector", (zero.any(1) & readable).nonzero()[:, 0], rows)
        if unit:
            off = ((norms - 1).abs() > UNIT_TOLERANCE[spec.stored]) & ~zero & norms.isfinite()
            wrong = (off.any(1) & readable).nonzero()[:, 0]
            which = (
                f" (length {float(norms[wrong[0]][off[wrong[0]]][0]):.4g})" if len(wrong) else ""
            )
            self.report(f"{name} should be of unit length and is not{which}", wrong, rows)

    def report(self, what: str, bad: Tensor, rows: range) -> None:
        if len(bad):
            at = [rows[i] for i in bad.tolist()]
            named = [self.store.keys[row] for row in at] if self.named else at
            self.say(f"{what}: {'sample' if self.named else 'row'} {listed(named)}")
