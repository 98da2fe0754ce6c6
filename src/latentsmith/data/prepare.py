"""A resized copy of a dataset as an image folder: decode large files once, not every epoch."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from latentsmith.data.base import CorruptSample, Dataset
from latentsmith.data.transforms import Transform, TransformConfig
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_path, write_json

NOTE = ".prepared.json"
_PIL_FORMAT = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}


@dataclass
class Prepared:
    """What `prepare` did."""

    written: int = 0
    kept: int = 0
    bad: list[str] = field(default_factory=list)
    """Why each unreadable sample was left out."""


def prepare(dataset: Dataset, cfg: TransformConfig, folder: Path, format: str) -> Prepared:
    """Write every sample to ``folder/[class/]INDEX[_name].format``, resized.

    A caption goes into a ``.txt`` file beside its image (``image_folder`` reads it with
    ``captions=true``). Files that are there are kept and each is written atomically, so the same
    call goes on after an interruption.

    Raises:
        UserError: ``folder`` holds other files, or a copy of other data or with other settings.
    """
    transform = cfg.deterministic().build()
    note = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "transform": transform.fingerprint(),
        "format": format,
    }
    _claim(folder, note)
    there = {path.name[:8] for path in folder.rglob(f"*.{format}") if path.name[0] != "."}
    todo = [index for index in range(len(dataset)) if f"{index:08d}" not in there]

    def one(index: int) -> str | None:
        return _write(dataset, index, transform, folder, format)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        bad = [why for why in pool.map(one, todo) if why is not None]
    return Prepared(written=len(todo) - len(bad), kept=len(dataset) - len(todo), bad=bad)


def _claim(folder: Path, note: dict[str, Any]) -> None:
    """Note what the folder holds, or check that it holds just that."""
    path = folder / NOTE
    if path.is_file():
        there = json.loads(path.read_text())
        other = [key for key in note if there.get(key) != note[key]]
        if other:
            details = "; ".join(f"{key}: {there.get(key)} there, {note[key]} now" for key in other)
            raise UserError(f"{folder} holds a copy made from something else ({details})")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and was not written by 'latentsmith data prepare'")
    else:
        write_json(path, note)


def _write(
    dataset: Dataset, index: int, transform: Transform, folder: Path, format: str
) -> str | None:
    """Write one sample; the reason if it cannot be read."""
    from PIL import Image

    try:
        sample = dataset[index]
    except CorruptSample as error:
        return str(error)
    name = f"{index:08d}"
    if "file" in sample:
        name += f"_{Path(sample['file']).stem}"
    if dataset.classes is not None:
        folder = folder / dataset.classes[sample["label"]].replace("/", "-")
    pixels = transform(sample["image"]).mul(255).round().to(torch.uint8)
    if "caption" in sample:  # first: the image is what a later call takes for done
        with atomic_path(folder / f"{name}.txt") as tmp:
            tmp.write_text(sample["caption"] + "\n", encoding="utf-8")
    with atomic_path(folder / f"{name}.{format}") as tmp:
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image.save(tmp, format=_PIL_FORMAT[format], quality=95, lossless=True)
    return None
