"""Sample grids as PNG."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsmith.utils.files import atomic_folder, atomic_path


def image_grid(images: Tensor, *, gap: int = 2, columns: int | None = None) -> np.ndarray:
    """[N, C, H, W] in [0, 1], C = 1 or 3 → uint8 [rows*(H+gap)+gap, columns*(W+gap)+gap, 3].

    Row by row, as square as it goes unless ``columns`` is given; white gaps; values outside [0, 1]
    are clipped.
    """
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pixels = images.detach().float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    if c == 1:
        pixels = pixels.expand(n, 3, h, w)
    grid = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        y = gap + (i // columns) * (h + gap)
        x = gap + (i % columns) * (w + gap)
        grid[y : y + h, x : x + w] = image
    return grid


def save_grid(images: Tensor, file: Path, *, columns: int | None = None) -> None:
    """Write `image_grid` of ``images`` to a PNG file, atomically."""
    from PIL import Image

    with atomic_path(file) as tmp:
        Image.fromarray(image_grid(images, columns=columns)).save(tmp, format="PNG")


def write_images(images: Tensor, folder: Path, names: Sequence[str]) -> None:
    """Write each of ``images`` [N, C, H, W] in [0, 1] as ``<name>.png`` into an open folder."""
    from PIL import Image

    for image, name in zip(images, names, strict=True):
        Image.fromarray(image_grid(image[None], gap=0)).save(folder / f"{name}.png")


def save_images(images: Tensor, folder: Path, names: Sequence[str]) -> None:
    """`write_images`, all of them or none. An existing folder is replaced."""
    with atomic_folder(folder) as tmp:
        write_images(images, tmp, names)
