"""Small image files for tests."""

from pathlib import Path

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
