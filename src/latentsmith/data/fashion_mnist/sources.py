"""Where Fashion-MNIST may come from; the first source that answers is used and named."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Split
from latentsmith.data.debian import unpacked
from latentsmith.data.decode import decode_image
from latentsmith.data.fashion_mnist.idx import BadFile, write_idx
from latentsmith.data.fashion_mnist.verify import FILES, PARTS, check, read_folder
from latentsmith.data.found import first_found
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_folder

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
HUB = "zalando-datasets/fashion_mnist"
HUB_PATIENCE = 5.0
"""Seconds to wait for the hub's first answer: without a network this must fail fast."""
_ORIGIN = "origin.txt"

Found = tuple[Tensor, Tensor, str]
"""images uint8 [N, 28, 28], labels uint8 [N], origin."""


def find(split: Split, folder: Path | None, cache: Path) -> Found:
    """One split from the first source that has it, checked.

    Args:
        folder: the user's own copy; when given, nothing else is tried.
        cache: downloads are kept in ``cache / "fashion_mnist"``.

    Raises:
        UserError: no source has it; names each and why it failed.
    """
    parts = PARTS[split]
    kept = cache / "fashion_mnist"
    if folder is not None:
        try:
            images, labels = read_folder(Path(folder).expanduser(), parts)
        except BadFile as error:
            raise UserError(f"data.folder for Fashion-MNIST: {error}") from error
        return images, labels, f"folder {folder}"
    return first_found(
        "Fashion-MNIST",
        [
            ("an earlier download", lambda: _from_cache(kept, parts)),
            ("Debian's installed package", lambda: _from_debian(parts)),
            ("the Hugging Face hub", lambda: _from_hub(kept, parts)),
            ("the Debian package, downloaded", lambda: _from_download(kept, parts)),
        ],
        setting="data.folder=/path/to/the/four/files",
        advice=f"Give a folder, or install it (apt-get install {PACKAGE}), or go online.",
    )


def _from_cache(kept: Path, parts: tuple[str, ...]) -> Found:
    if not kept.is_dir():
        raise BadFile(f"{kept} is not there yet")
    images, labels = read_folder(kept, parts)
    origin = kept / _ORIGIN
    first = origin.read_text().strip() if origin.is_file() else "unknown origin"
    return images, labels, f"{first} (kept in {kept})"


def _from_debian(parts: tuple[str, ...]) -> Found:
    images, labels = read_folder(DEBIAN_FOLDER, parts)
    return images, labels, f"Debian package {PACKAGE} ({DEBIAN_FOLDER})"


def _from_hub(kept: Path, parts: tuple[str, ...]) -> Found:
    """The hub's parquet files, decoded and kept as IDX."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise BadFile("HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi, hf_hub_download

    decoded: dict[str, Tensor] = {}
    try:
        info = HfApi().dataset_info(HUB, timeout=HUB_PATIENCE)
        files = [s.rfilename for s in info.siblings or [] if s.rfilename.endswith(".parquet")]
        for part, word in (("train", "train"), ("t10k", "test")):
            file = next((f for f in files if word in f), None)
            if file is None:
                raise BadFile(f"{HUB} has no parquet file for {word!r}: {files}")
            path = hf_hub_download(HUB, file, repo_type="dataset", etag_timeout=HUB_PATIENCE)
            decoded[f"{part}-images"], decoded[f"{part}-labels"] = read_parquet(Path(path))
    except BadFile:
        raise
    except Exception as error:  # the hub client has no common base for what a network can do
        raise BadFile(f"{HUB}: {type(error).__name__}: {error}") from error
    for part, values in decoded.items():
        check(part, values, f"hub dataset {HUB}")
    origin = f"Hugging Face hub {HUB}"
    with atomic_folder(kept) as tmp:
        for part, values in decoded.items():
            write_idx(tmp / f"{FILES[part]}.gz", values)
        (tmp / _ORIGIN).write_text(origin + "\n")
    return decoded[parts[0]], decoded[parts[1]], origin


def read_parquet(path: Path) -> tuple[Tensor, Tensor]:
    """The hub's file: ``image`` {bytes: PNG} and ``label`` → uint8 [N, 28, 28], uint8 [N]."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["image", "label"])
    rows: list[dict[str, Any]] = table["image"].to_pylist()
    images = [decode_image(row["bytes"], "gray", "a hub image")[0] for row in rows]
    return torch.stack(images), torch.tensor(table["label"].to_pylist(), dtype=torch.uint8)


def _from_download(kept: Path, parts: tuple[str, ...]) -> Found:
    """The package's files, without installing it: needs no root."""
    with tempfile.TemporaryDirectory(prefix="latentsmith-") as name:
        package, root = unpacked(PACKAGE, Path(name))
        folder = root / DEBIAN_FOLDER.relative_to("/")
        read_folder(folder, tuple(FILES))  # check all four before they are kept
        with atomic_folder(kept) as tmp:
            for file in FILES.values():
                shutil.copyfile(folder / f"{file}.gz", tmp / f"{file}.gz")
            (tmp / _ORIGIN).write_text(f"Debian package {package}, downloaded\n")
    return _from_cache(kept, parts)
