"""Small image files for tests."""

import csv
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from PIL import Image


def write_image(path: Path, *, value: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    """A small RGB image of (width, height) whose pixels depend on ``value``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(
    root: Path, per_class: int = 5, classes: tuple[str, ...] = ("cat", "dog")
) -> Path:
    """``root/CLASS/k.png``, every image different."""
    for c, name in enumerate(classes):
        for k in range(per_class):
            write_image(root / name / f"{k}.png", value=100 * c + k)
    return root


def zip_of(folder: Path, path: Path, *, compression: int = ZIP_STORED) -> Path:
    """``folder/CLASS/k.png`` as a ZIP with these members, and beside it the CSV of its samples."""
    files = sorted(folder.rglob("*.png"))
    classes = sorted({file.parent.name for file in files})
    rows = []
    with ZipFile(path, "w", compression) as archive:
        for file in files:
            name = file.relative_to(folder).as_posix()
            archive.write(file, name)
            number = classes.index(file.parent.name)
            rows.append([name.removesuffix(".png"), number, file.parent.name])
    write_csv(path.with_suffix(".csv"), ["sample_id", "class_id", "class_name"], *rows)
    return path


def write_csv(path: Path, *rows: Iterable[object]) -> Path:
    """A CSV file; the first row is its header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
