"""Reference vectors of a whole dataset, computed once and kept.

With a deterministic transform an image's reference never changes, while the encoder costs more
than a small autoencoder's training step. They lie in a store of vectors (`latentsmith.stores`)
whose name holds a digest of everything they depend on, so different setups lie side by side and
none is ever mistaken for another.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import Transform
from latentsmith.encoders.base import Encoder
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore, StoreManifest
from latentsmith.stores.layout import CLAIM, MANIFEST
from latentsmith.utils.compare import differences as differences
from latentsmith.utils.lock import alone

if TYPE_CHECKING:
    from latentsmith.stores.contents import Contents

log = logging.getLogger(__name__)

FORMAT = 1

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def cache_manifest(encoder: Encoder, dataset: Dataset, transform: Transform) -> dict[str, Any]:
    """Everything cached vectors, and statistics of them, depend on; JSON-able.

    Raises:
        UserError: the transform is random: its references must be computed on each crop.
    """
    _refuse_chance(transform)
    return {
        "format": FORMAT,
        "encoder": encoder.fingerprint(),
        "dataset": {"name": dataset.name, "digest": dataset.digest, "count": len(dataset)},
        "transform": transform.fingerprint(),
        "dtype": "float32",
    }


def _refuse_chance(transform: Transform) -> None:
    if not transform.deterministic:
        raise UserError(
            "references cannot be cached under a random transform (crop=random or flip=true): "
            "each crop has its own. Use a deterministic transform, or compute references online"
        )


def cache_path(folder: Path, manifest: StoreManifest) -> Path:
    """Where the vectors of this setup lie."""
    return Path(folder) / f"{manifest.encoder['kind']}-{manifest.fingerprint()[:16]}"


def _nearest_sibling(folder: Path, manifest: StoreManifest) -> str:
    """What sets this setup apart from the most similar cached one, for the log."""
    best: list[str] | None = None
    for path in sorted(Path(folder).glob(f"*/{CLAIM}")):
        try:
            stored = json.loads(path.read_text())["manifest"]
        except (OSError, KeyError, TypeError, ValueError):
            continue
        changed = differences(manifest.to_json(), stored)
        if best is None or len(changed) < len(best):
            best = changed
    return "nothing is cached yet" if best is None else "cached ones differ in " + "; ".join(best)


def _clear_damage(path: Path, manifest: StoreManifest) -> None:
    """Remove from a store what cannot be used, and say so."""
    from latentsmith.stores.verify import discard, verify_store

    reason = ""
    try:
        changed = differences(
            manifest.to_json(), json.loads((path / CLAIM).read_text())["manifest"]
        )
        if changed:  # a digest collision, or a file put there by hand
            reason = "it was made with other settings: " + "; ".join(changed)
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{CLAIM} is damaged ({error!r})"
    if reason:
        log.warning("references: computing again, %s cannot be used: %s", path, reason)
        shutil.rmtree(path)
    elif not (path / MANIFEST).is_file():
        log.info("references: going on in %s", path)
    elif not (found := verify_store(path)).ok:
        reason = "; ".join(found.problems)
        log.warning("references: computing again what is damaged in %s: %s", path, reason)
        discard(found)


def _rows_of(store: FeatureStore) -> Tensor:
    """Vectors float32 [N, D]; NaN where the image was unreadable, so that using one cannot go
    unnoticed."""
    readable = [row for row in range(len(store)) if row not in store.unreadable]
    vectors = torch.full((len(store), *store.manifest.fields["vector"].shape), float("nan"))
    rows = torch.tensor(readable, dtype=torch.int64)
    return vectors.index_copy_(0, rows, store.gather(rows, fields=["vector"])["vector"])


def mend_references(encoder: Encoder, loader: Loader, folder: Path) -> None:
    """Remove damaged shards, and stores of something else, from where `fill_references` will write;
    the log says which. One process calls this, before any fills."""
    contents = _contents(encoder, loader)
    path = cache_path(folder, contents.manifest)
    with alone(path):
        if path.exists():
            _clear_damage(path, contents.manifest)


def fill_references(
    encoder: Encoder,
    loader: Loader,
    folder: Path,
    *,
    rank: int,
    world_size: int,
    progress: Progress | None = None,
) -> None:
    """Compute the vectors that `reference_vectors` will read, each process its shards.

    All processes call this, with a loader over the whole dataset. Raises UserError as
    `reference_vectors` does.
    """
    from latentsmith.stores.contents import fill

    contents = _contents(encoder, loader)
    fill(
        cache_path(folder, contents.manifest), contents, batch_size=loader.batch_size,
        rank=rank, world_size=world_size, progress=progress,
    ).close()  # fmt: skip


def _contents(encoder: Encoder, loader: Loader) -> "Contents":
    """What a store of reference vectors holds; computes nothing yet."""
    if loader.world_size != 1:
        raise ValueError("reference vectors need a loader over the whole dataset: world_size=1")
    from latentsmith.stores.features import vector_contents

    _refuse_chance(loader.transform)
    return vector_contents(encoder, loader.dataset, loader.transform, dtype="float32")


def reference_vectors(
    encoder: Encoder, loader: Loader, folder: Path, *, progress: Progress | None = None
) -> Tensor:
    """Reference vectors float32 [N, D] of ``loader.dataset``, in dataset order.

    Read from ``folder`` when they were computed before with the same encoder weights and
    settings, dataset and transform; otherwise computed (the log says what differs) and written
    shard by shard, so that a killed computation goes on where it stopped. A damaged shard is
    reported, and computed again. Other processes that want the same vectors wait, and read them.

    Args:
        encoder: fitted, on the device to use.
        loader: `latentsmith.data.loader.Loader` over the whole dataset, also under data
            parallelism: whichever process comes first computes.
        folder: cache folder.
        progress: called after each batch.

    Raises:
        UserError: random transform, unfitted encoder, or an encoder that gives NaN or infinity
            (the sample is named).
    """
    from latentsmith.stores.contents import fill

    contents = _contents(encoder, loader)
    path = cache_path(folder, contents.manifest)
    with alone(path):
        if path.exists():
            _clear_damage(path, contents.manifest)
        else:
            log.info("references: computing, %s", _nearest_sibling(folder, contents.manifest))
        known, started = (path / MANIFEST).is_file(), time.monotonic()
        store = fill(path, contents, batch_size=loader.batch_size, progress=progress)
    vectors = _rows_of(store)
    store.close()
    if known:
        log.info("references: %s from %s", tuple(vectors.shape), path)
    else:
        log.info(
            "references: %d vectors of width %d in %.1f s (%d unreadable), kept in %s",
            *(*vectors.shape, time.monotonic() - started, len(store.unreadable), path),
        )
    return vectors
