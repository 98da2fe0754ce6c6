"""Statistics of a dataset's features, computed once, kept with what they were made from.

The file's name holds a digest of encoder (weights and preprocessing), dataset and transform, so
setups lie side by side; a file that is given by hand is checked against all of it and refused by
name of what differs.
"""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import Transform
from latentsmith.encoders.base import Encoder
from latentsmith.encoders.cache import Progress, cache_manifest, differences, reference_vectors
from latentsmith.errors import UserError
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.utils.digest import json_digest
from latentsmith.utils.distributed import (
    from_main,
    gather_rows,
    raise_together,
    world_size,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceStatistics:
    """A dataset in one encoder's feature space. ``features`` float32 [N, D] in dataset order, if
    they were asked for (rows of unreadable images left out)."""

    stats: FeatureStats
    features: Tensor | None = None


def space_of(encoder: Encoder) -> str:
    """``efficientnet_lite0@112:pooled#1f3a5b7c``: kind, resolution, output, and the first digits of
    a digest of weights and preprocessing. What stands before the ``@`` names metrics."""
    made = encoder.fingerprint()
    resolution = made.get("resolution", "")
    return f"{encoder.name}@{resolution}:{encoder.output}#{json_digest(made)[:8]}"


def statistics_manifest(encoder: Encoder, dataset: Dataset, transform: Transform) -> dict[str, Any]:
    """Everything the statistics depend on; JSON-able. Raises UserError for a random transform."""
    manifest = cache_manifest(encoder, dataset, transform)
    return json.loads(json.dumps(manifest | {"space": space_of(encoder)}))


def statistics_path(folder: Path, manifest: dict[str, Any]) -> Path:
    """Where the statistics of this setup lie."""
    kind = manifest["encoder"]["kind"]
    return Path(folder) / f"{kind}-{json_digest(manifest)[:16]}.stats.safetensors"


def load_statistics(
    path: Path, encoder: Encoder, dataset: Dataset, transform: Transform
) -> FeatureStats:
    """Statistics from a file, only if they are of exactly this encoder, dataset and transform.

    Raises:
        UserError: no such file, damaged, or made from something else (every difference is named).
    """
    wanted = statistics_manifest(encoder, dataset, transform)
    stats = FeatureStats.load(path)
    changed = differences(wanted, stats.manifest)
    if changed:
        raise UserError(f"the statistics in {path} were made otherwise: " + "; ".join(changed))
    return stats


def reference_statistics(
    encoder: Encoder,
    loader: Loader,
    folder: Path,
    *,
    keep_features: bool = False,
    progress: Progress | None = None,
) -> ReferenceStatistics:
    """Statistics of ``loader.dataset`` in the encoder's feature space (raw vectors).

    Read from ``folder`` when they were computed before from the same encoder, dataset and
    transform, otherwise computed and written atomically. A damaged file is reported and replaced.
    With several processes each encodes its part (give the loader its rank and world size, and call
    this on all); all get the same numbers, and the main one writes.

    Args:
        encoder: fitted, on the device to use.
        loader: over the whole dataset; each epoch's part of this rank.
        folder: cache folder.
        keep_features: also the features themselves. One process keeps them in ``folder`` too
            (`reference_vectors`); several gather them, which is not kept.
        progress: called with (images done by this process, images in all) after each batch.

    Raises:
        UserError: on every process: random transform, token output, fewer than 2 readable images,
            NaN features, or a loader that does not share the dataset among the processes.
    """
    if loader.world_size != world_size():
        raise UserError(
            f"the loader shares its batches among {loader.world_size} processes, but there are "
            f"{world_size()}: build it with rank and world_size of this run."
        )
    if encoder.output == "tokens":
        raise UserError(
            f"statistics are of one vector per image: give encoder {encoder.name} another output "
            "than tokens."
        )
    manifest = statistics_manifest(encoder, loader.dataset, loader.transform)
    path = statistics_path(folder, manifest)
    if keep_features and loader.world_size == 1:
        vectors = reference_vectors(encoder, loader, folder, progress=progress)
        features: Tensor | None = vectors[vectors.isfinite().all(1)]
    else:
        features = None
    stats = from_main(_known(path, manifest, encoder, loader))
    if stats is None or (keep_features and features is None):
        started = time.monotonic()
        if features is not None:
            stats = FeatureStats(features.shape[1], manifest["space"], manifest).update(features)
        else:
            stats, features = _compute(encoder, loader, manifest, keep_features, progress)
        if stats.n < 2:
            raise UserError(f"{loader.dataset.name} has {stats.n} readable image(s); 2 are needed.")
        if loader.rank == 0:
            stats.save(path)
            seconds = time.monotonic() - started
            log.info("statistics: of %d images in %.1f s, kept in %s", stats.n, seconds, path)
    return ReferenceStatistics(stats, features)


def _known(
    path: Path, manifest: dict[str, Any], encoder: Encoder, loader: Loader
) -> FeatureStats | None:
    """What the file holds, on the main process; None elsewhere and when it cannot serve."""
    if loader.rank != 0 or not path.is_file():
        return None
    try:
        return load_statistics(path, encoder, loader.dataset, loader.transform)
    except UserError as reason:
        log.warning("statistics: computing again, %s", reason)
        return None


@torch.no_grad()
def _compute(
    encoder: Encoder,
    loader: Loader,
    manifest: dict[str, Any],
    keep: bool,
    progress: Progress | None,
) -> tuple[FeatureStats, Tensor | None]:
    """This process's part of every batch, then joined."""
    device = next((v.device for v in encoder.state_dict().values()), torch.device("cpu"))
    stats = FeatureStats(encoder.dim, manifest["space"], manifest)
    rows, indices = [torch.empty(0, encoder.dim)], [torch.empty(0, dtype=torch.int64)]
    failed: UserError | None = None
    try:
        for batch in loader.epoch():
            vectors = encoder.vector(batch["image"].to(device))
            stats.update(vectors)
            if keep:
                rows.append(vectors.cpu())
                indices.append(batch["index"])
            if progress is not None:
                progress(stats.n, len(loader.dataset))
    except UserError as error:  # NaN, or too many unreadable images
        failed = error
    raise_together(failed)
    stats = stats.all_reduce()
    if not keep:
        return stats, None
    order = gather_rows(torch.cat(indices)).argsort()
    return stats, gather_rows(torch.cat(rows))[order]
