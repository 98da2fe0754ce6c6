"""A resized copy of a dataset as an image folder: decode large files once, not every epoch."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from latentsmith.data.base import CorruptSample, Dataset
from latentsmith.data.edited import warn_left_out
from latentsmith.data.transforms import Transform, TransformConfig
from latentsmith.errors import UserError
from latentsmith.utils.files import atomic_path, make_folder, write_json

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
    call goes on after an interruption. Of edits only the images before are written.

    Raises:
        UserError: ``folder`` holds other files, or a copy of other data or with other settings; or
            not one sample can be read.
    """
    transform = cfg.deterministic().build()
    note = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "transform": transform.fingerprint(),
        "format": format,
    }
    made = _claim(folder, note)
    warn_left_out(dataset)
    there = {path.name[:8] for path in folder.rglob(f"*.{format}") if path.name[0] != "."}
    todo = [index for index in range(len(dataset)) if f"{index:08d}" not in there]

    def one(index: int) -> str | None:
        return _write(dataset, index, transform, folder, format)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        bad = [why for why in pool.map(one, todo) if why is not None]
    if len(bad) == len(dataset):
        (folder / NOTE).unlink()
        for empty in made:
            empty.rmdir()
        raise UserError(
            f"none of the {len(dataset)} images of {dataset.name} can be read, so there is nothing "
            f"to write; the first: {bad[0]}"
        )
    return Prepared(written=len(todo) - len(bad), kept=len(dataset) - len(todo), bad=bad)


def _claim(folder: Path, note: dict[str, Any]) -> list[Path]:
    """Note what the folder holds, or check that it holds just that; gives the folders that were
    made for it, the innermost first."""
    path = folder / NOTE
    if not path.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and was not written by 'latentsmith data prepare'")
    made = make_folder(folder)
    state(path, note, f"{folder} holds a copy")
    return made


def state(path: Path, note: Mapping[str, Any], what: str) -> None:
    """Note in ``path`` what is being written, or check that it is just what was noted there.

    Args:
        what: for the message: "FOLDER holds a copy".

    Raises:
        UserError: naming what differs, both sides of it.
    """
    if not path.is_file():
        write_json(path, note)
        return
    there = json.loads(path.read_text())
    other = [key for key in note if there.get(key) != note[key]]
    if other:
        details = "; ".join(f"{key}: {there.get(key)} there, {note[key]} now" for key in other)
        raise UserError(f"{what} made from something else ({details})")


def save_image(image: Tensor, transform: Transform, target: IO[bytes] | Path, format: str) -> None:
    """Transform a raw image, uint8 [C, H, W], and write it: RGB, JPEG at quality 95, others without
    loss."""
    from PIL import Image

    pixels = transform(image).mul(255).round().to(torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(target, format=_PIL_FORMAT[format], quality=95, lossless=True)


def _folder_of(label: str) -> str:
    """A class's name as that of a folder, in this one and nowhere else."""
    name = label.replace("/", "-")
    return f"_{name}" if name in ("", ".", "..") else name


def _write(
    dataset: Dataset, index: int, transform: Transform, folder: Path, format: str
) -> str | None:
    """Write one sample; the reason if it cannot be read."""
    try:
        sample = dataset[index]
    except CorruptSample as error:
        return str(error)
    name = f"{index:08d}"
    if "file" in sample:
        name += f"_{Path(sample['file']).stem}"
    if dataset.classes is not None:
        folder = folder / _folder_of(dataset.classes[sample["label"]])
    if "caption" in sample:  # first: the image is what a later call takes for done
        with atomic_path(folder / f"{name}.txt") as tmp:
            tmp.write_text(sample["caption"] + "\n", encoding="utf-8")
    with atomic_path(folder / f"{name}.{format}") as tmp:
        save_image(sample["image"], transform, tmp, format)
    return None
