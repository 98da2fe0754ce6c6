"""A store in a few lines."""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from latentsmith.stores.base import FeatureStore, StoreManifest
from latentsmith.stores.layout import row_bytes
from latentsmith.stores.texts import TEXTS_FILE, stored_texts

FIRST = 5
"""Keys shown."""


def describe(manifest: StoreManifest) -> str:
    """Rows, fields and bytes of a store that is, or is to be."""
    each = {name: row_bytes(spec) for name, spec in manifest.fields.items()}
    total = manifest.count * sum(each.values())
    lines = [f"{manifest.content}: {manifest.count:,} rows, {total / 1e6:,.1f} MB"]
    for name, spec in manifest.fields.items():
        shape = " x ".join(map(str, spec.shape)) or "one number"
        lines.append(f"  {name:<16} {shape}, {spec.stored}, {each[name]:,} bytes a row")
    return "\n".join(lines)


def inspect(store: FeatureStore) -> str:
    """Everything the manifest says, size on disk, what was unreadable, the first keys."""
    manifest = store.manifest
    files = [file for file in Path(store.path).rglob("*") if file.is_file()]
    lines = [f"store        {store.path}", describe(manifest)]
    lines.append(f"on disk      {sum(f.stat().st_size for f in files) / 1e6:,.1f} MB, "
                 f"{len(files):,} files")  # fmt: skip
    for name in ("encoder", "source", "transform", "extra"):
        value = getattr(manifest, name)
        if value:
            lines.append(f"{name:<12} {_shown(value)}")
    lines.append(f"digest       {manifest.fingerprint()}")
    unreadable: Mapping[int, str] = getattr(store, "unreadable", {})
    lines.append(f"unreadable   {len(unreadable):,}")
    lines += [
        f"             {store.keys[row]}: {why}" for row, why in islice(unreadable.items(), FIRST)
    ]
    if (Path(store.path) / TEXTS_FILE).is_file():
        texts = stored_texts(store).unique[:FIRST]
        lines.append("first texts  " + ", ".join(map(repr, texts)))
    more = f", ... ({len(store):,})" if len(store) > FIRST else ""
    lines.append(
        "keys         " + ", ".join(store.keys[i] for i in range(min(FIRST, len(store)))) + more
    )
    return "\n".join(lines)


def _shown(value: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {part if isinstance(part, str) else json.dumps(part)}"
        for key, part in value.items()
    )
