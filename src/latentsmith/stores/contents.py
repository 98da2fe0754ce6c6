"""What goes into a store: a manifest, a key for every row, and how rows are computed."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore, Stored, StoreManifest, open_store
from latentsmith.stores.build import Compute, Progress, build_store
from latentsmith.utils.cache import cache_root, note_use
from latentsmith.utils.lock import alone


@dataclass(frozen=True)
class Contents:
    """Everything `fill` needs.

    Attributes:
        manifest: what the store will hold and what makes it.
        keys: of every row.
        compute: see `latentsmith.stores.build.Compute`; one with ``close()`` is closed at the end.
        files: side files of the store, name → what writes one to a path.
    """

    manifest: StoreManifest
    keys: Sequence[str]
    compute: Compute
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)

    def default_path(self) -> Path:
        """Where this store lies in the user's cache, named by everything its values depend on."""
        kind = str(self.manifest.encoder.get("kind", "encoder"))
        name = f"{self.manifest.content}-{kind}-{self.manifest.fingerprint()[:16]}"
        return cache_root() / "stores" / name


def source_of(dataset: Dataset) -> dict[str, Any]:
    """A manifest's ``source``: which samples."""
    return {"name": dataset.name, "digest": dataset.digest, "count": len(dataset)}


def checked(values: Tensor, stored: Stored, names: Callable[[int], str], what: str) -> Tensor:
    """``values`` [b, …] as they will be stored, on the CPU.

    Args:
        names: what to call the i-th sample in a message.
        what: of what these are the values.

    Raises:
        UserError: NaN or infinity, or a number beyond the range of ``stored``; names the sample.
    """
    kept = values.to(torch.float16 if stored == "int8" else getattr(torch, stored))
    # the largest carries NaN and infinity along, ten times as fast as asking every number
    good = kept.abs().unsqueeze(-1).flatten(1).amax(1).isfinite()  # also of single numbers
    if not good.all():
        bad = int((~good).nonzero()[0])
        if not values[bad].isfinite().all():
            raise UserError(f"{what} of sample {names(bad)}: NaN or infinity")
        raise UserError(
            f"{what} of sample {names(bad)} reach {float(values[bad].abs().max()):.3g}, beyond the "
            "range of float16: store them with dtype=bfloat16 or dtype=float32"
        )
    return to_host(kept)


def to_host(values: Tensor) -> Tensor:
    """On the CPU; from CUDA by way of pinned memory, which is several times as fast."""
    if values.device.type != "cuda":
        return values.contiguous()
    out = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    out.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return out


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module computes."""
    return next((v.device for v in module.state_dict().values()), torch.device("cpu"))


def compute_shards(
    path: Path,
    contents: Contents,
    *,
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
    rows_per_shard: int | None = None,
    progress: Progress | None = None,
) -> None:
    """`build_store` of ``contents``, whose readers are closed at the end, whatever that is."""
    try:
        build_store(
            path,
            contents.manifest,
            contents.keys,
            contents.compute,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            rows_per_shard=rows_per_shard,
            progress=progress,
        )
    finally:
        close = getattr(contents.compute, "close", None)
        if close is not None:
            close()


def fill(
    path: Path,
    contents: Contents,
    *,
    batch_size: int = 32,
    rank: int = 0,
    world_size: int = 1,
    rows_per_shard: int | None = None,
    progress: Progress | None = None,
) -> FeatureStore:
    """The finished store at ``path``: as it is, gone on with, or made now.

    Every rank calls this and computes its own shards; with a process group all get the finished
    store (see `build_store` for ranks without one). A single writer waits while another process
    makes the same store, and then finds it made.

    Raises:
        UserError: something else is at ``path`` (a store of other contents: both sides are named),
            or a sample's values cannot be stored.
    """
    path = Path(path)
    note_use(path)
    # One writer who owns every shard shares them with nobody, not even with another run's.
    with alone(path) if world_size == 1 else nullcontext():
        compute_shards(
            path, contents, batch_size=batch_size, rank=rank, world_size=world_size,
            rows_per_shard=rows_per_shard, progress=progress,
        )  # fmt: skip
        for name, write in contents.files.items():  # of a finished store: nothing else was there
            if not (path / name).is_file():
                write(path / name)
    return open_store(path)
