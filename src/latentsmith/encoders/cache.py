"""Reference vectors of a whole dataset, computed once and kept.

With a deterministic transform an image's reference never changes, while the encoder costs more
than a small autoencoder's training step. The file's name holds a digest of everything the
vectors depend on, so different setups lie side by side and none is ever mistaken for another.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import Transform
from latentsmith.encoders.base import Encoder
from latentsmith.errors import UserError
from latentsmith.utils.compare import differences
from latentsmith.utils.digest import json_digest, state_digest
from latentsmith.utils.files import atomic_path

log = logging.getLogger(__name__)

FORMAT = 1

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def cache_manifest(encoder: Encoder, dataset: Dataset, transform: Transform) -> dict[str, Any]:
    """Everything cached vectors depend on; JSON-able.

    Raises:
        UserError: the transform is random: its references must be computed on each crop.
    """
    if not transform.deterministic:
        raise UserError(
            "references cannot be cached under a random transform (crop=random or flip=true): "
            "each crop has its own. Use a deterministic transform, or compute references online"
        )
    return {
        "format": FORMAT,
        "encoder": encoder.fingerprint(),
        "dataset": {"name": dataset.name, "digest": dataset.digest, "count": len(dataset)},
        "transform": transform.fingerprint(),
        "dtype": "float32",
    }


def cache_path(folder: Path, manifest: dict[str, Any]) -> Path:
    """Where the vectors of this setup lie."""
    kind = manifest["encoder"]["kind"]
    return Path(folder) / f"{kind}-{json_digest(manifest)[:16]}.safetensors"


def _read(path: Path, manifest: dict[str, Any]) -> tuple[Tensor | None, str]:
    """The vectors, or None and why the file cannot serve."""
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            vectors = file.get_tensor("vectors")
        stored = json.loads(meta["manifest"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        return None, f"the file is damaged ({error})"
    changed = differences(manifest, stored)
    if changed:  # a digest collision, or a file put there by hand
        return None, "it was made with other settings: " + "; ".join(changed)
    if state_digest({"vectors": vectors}) != meta.get("checksum"):
        return None, "its bytes do not match their checksum: the file is damaged"
    return vectors, ""


def _nearest_sibling(folder: Path, manifest: dict[str, Any]) -> str:
    """What sets this setup apart from the most similar cached one, for the log."""
    best: list[str] | None = None
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                stored = json.loads((file.metadata() or {})["manifest"])
        except (OSError, SafetensorError, KeyError, ValueError):
            continue
        changed = differences(manifest, stored)
        if best is None or len(changed) < len(best):
            best = changed
    return "nothing is cached yet" if best is None else "cached ones differ in " + "; ".join(best)


@torch.no_grad()
def compute_vectors(
    encoder: Encoder, batches: Iterable[dict[str, Any]], count: int, progress: Progress | None
) -> tuple[Tensor, int]:
    """Encode batches with ``"index"`` [b] and ``"image"`` [b, C, H, W] into rows of [count, D].

    Returns:
        The vectors, row i belonging to index i, and how many samples no batch held (unreadable
        ones): their rows are NaN, so that using one cannot go unnoticed.

    Raises:
        UserError: no batch, or the encoder gave NaN or infinity.
    """
    device = next((v.device for v in encoder.state_dict().values()), torch.device("cpu"))
    vectors = torch.empty(0)
    done = 0
    for batch in batches:
        rows = encoder.vector(batch["image"].to(device)).cpu()
        if not rows.isfinite().all():
            raise UserError(f"encoder {encoder.name} gave NaN or infinity for some images")
        if done == 0:
            vectors = torch.full((count, rows.shape[1]), float("nan"))
        vectors[batch["index"]] = rows
        done += len(rows)
        if progress is not None:
            progress(done, count)
    if done == 0:
        raise UserError("no images to compute reference vectors of: the dataset is empty")
    return vectors, count - done


def reference_vectors(
    encoder: Encoder, loader: Loader, folder: Path, *, progress: Progress | None = None
) -> Tensor:
    """Reference vectors float32 [N, D] of ``loader.dataset``, in dataset order.

    Read from ``folder`` when they were computed before with the same encoder weights and
    settings, dataset and transform; otherwise computed (the log says what differs) and written
    atomically. A damaged file is reported, and replaced.

    Args:
        encoder: fitted, on the device to use.
        loader: `latentsmith.data.loader.Loader` over the whole dataset (one process: under data
            parallelism let one rank compute, and the others read).
        folder: cache folder.
        progress: called after each batch.

    Raises:
        UserError: random transform, unfitted encoder, empty dataset, or an encoder that gives
            NaN or infinity.
    """
    if loader.world_size != 1:
        raise ValueError("reference_vectors needs a loader over the whole dataset: world_size=1")
    manifest = cache_manifest(encoder, loader.dataset, loader.transform)
    path = cache_path(folder, manifest)
    if path.is_file():
        vectors, reason = _read(path, manifest)
        if vectors is not None:
            log.info("references: %s from %s", tuple(vectors.shape), path)
            return vectors
        log.warning("references: computing again, %s cannot be used: %s", path, reason)
    else:
        log.info("references: computing, %s", _nearest_sibling(folder, manifest))
    started = time.monotonic()
    vectors, missing = compute_vectors(encoder, loader.epoch(), len(loader.dataset), progress)
    meta = {
        "manifest": json.dumps(manifest, sort_keys=True),
        "checksum": state_digest({"vectors": vectors}),
    }
    with atomic_path(path) as tmp:
        save_file({"vectors": vectors}, tmp, metadata=meta)
    seconds = time.monotonic() - started
    log.info(
        "references: %d vectors of width %d in %.1f s (%d unreadable), kept in %s",
        *(*vectors.shape, seconds, missing, path),
    )
    return vectors
