"""What every feature store promises.

A store is a table: one row per sample, one column per *field* (``mean``, ``logvar``, ``tokens``,
``label``…), every row of a field of one shape and dtype. Rows are found by *key*, a string that
names the sample (the dataset index as text, a file's name, a source's sample id). A store is
useless without knowing what made it, so it always carries a `StoreManifest`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from latentsmith.utils.digest import json_digest

Content = Literal["latents", "tokens", "text", "vectors", "reconstructions"]
"""``latents`` of an autoencoder, spatial ``tokens`` of a teacher, ``text`` embeddings, pooled
``vectors``, errors and vectors of ``reconstructions``."""

Stored = Literal["float32", "float16", "bfloat16", "int8", "int64"]
"""How a field lies on disk. ``int8``: per-channel affine code of a float field, see
`latentsmith.stores.quantize`; it is read as float16."""

FORMAT = 1


@dataclass(frozen=True)
class FieldSpec:
    """One field: shape of a row and how it is stored."""

    shape: tuple[int, ...]
    stored: Stored

    @property
    def dtype(self) -> torch.dtype:
        """The dtype rows are read as."""
        return torch.float16 if self.stored == "int8" else getattr(torch, self.stored)


@dataclass(frozen=True)
class StoreManifest:
    """What a store holds and what made it: all that decides its values.

    Attributes:
        content: what the rows are.
        fields: name → spec.
        count: rows the finished store has (unreadable samples included; they are listed).
        encoder: fingerprint of what made them: kind, weights' digest, preprocessing, and for
            latents whether moments, mode or sample.
        source: ``{"name", "digest", "count"}`` of the dataset (or of the texts).
        transform: fingerprint of the image transform; empty for texts.
        extra: anything else the values depend on (``{"flip": true}``).
    """

    content: Content
    fields: dict[str, FieldSpec]
    count: int
    encoder: dict[str, Any]
    source: dict[str, Any]
    transform: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return asdict(self) | {
            "fields": {
                n: {"shape": list(f.shape), "stored": f.stored} for n, f in self.fields.items()
            }
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "StoreManifest":
        """What `to_json` gave. Raises KeyError or TypeError for anything else."""
        fields = {n: FieldSpec(tuple(f["shape"]), f["stored"]) for n, f in value["fields"].items()}
        return cls(**{**value, "fields": fields})

    def fingerprint(self) -> str:
        """Digest of everything above: two stores with one fingerprint hold the same values."""
        return json_digest(self.to_json())


@runtime_checkable
class FeatureStore(Protocol):
    """A finished store, open for reading. Opening is lazy and per process, so that an instance
    may be pickled, forked or sent to a spawned worker.

    Attributes:
        path: folder of the store.
        manifest: what it holds and what made it.
        keys: the sample of every row, in row order.
        unreadable: row → reason, of samples that could not be read when the store was written.
    """

    path: Path
    manifest: StoreManifest

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def unreadable(self) -> Mapping[int, str]: ...

    def __len__(self) -> int: ...

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Row numbers int64 [B]. Raises UserError naming keys the store does not have, and those
        whose sample was unreadable."""
        ...

    def gather(
        self,
        rows: Tensor,
        out: dict[str, Tensor] | None = None,
        fields: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Rows int64 [B] of every field (or of ``fields``), [B, …] each.

        Args:
            out: buffers to fill, of the same shapes and dtypes; without them, fresh tensors.

        Raises:
            UserError: a row that is out of range, or whose sample was unreadable.
        """
        ...

    def close(self) -> None:
        """Let go of files; the next `gather` opens them again."""
        ...


def open_store(path: Path | str) -> FeatureStore:
    """The store in a folder, whatever its backend, or at a URL (``s3://…``), see
    `latentsmith.stores.remote`.

    Raises:
        UserError: nothing there, not finished (naming how many shards are missing and the command
            that goes on), or a damaged manifest.
    """
    from latentsmith.stores.open import open_folder
    from latentsmith.stores.remote.place import is_url

    if is_url(path):
        from latentsmith.stores.remote.store import RemoteStore

        return RemoteStore(str(path))
    return open_folder(Path(path))
