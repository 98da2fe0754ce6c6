"""A few small pictures in place of Debian's wallpapers."""

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from latentsmith.data.wallpapers import pictures, sources
from latentsmith.data.wallpapers.pictures import LOMIRI, MATE, Picture

SIDE = 60
"""Longer side of small copies."""


def small_wallpapers(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Picture, ...]:
    """Six pictures below ``root``, 120 x 80 or 80 x 120, that the dataset takes for its own."""
    made = []
    rng = torch.Generator().manual_seed(0)
    for number, letter in enumerate("abcdef"):
        package = (LOMIRI, MATE)[number % 2]
        picture = Picture(package, f"{letter}_by_Someone.jpg", "Someone", "CC0 1.0", "")
        path = root / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (10, 15) if number % 3 else (15, 10)
        coarse = torch.randint(0, 255, (*size, 3), dtype=torch.uint8, generator=rng).numpy()
        Image.fromarray(coarse).resize((size[1] * 8, size[0] * 8)).save(path, quality=95)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        made.append(Picture(package, picture.file, "Someone", "CC0 1.0", digest))
    for module in (pictures, sources):
        monkeypatch.setattr(module, "PICTURES", tuple(made))
    monkeypatch.setattr(sources, "SIDE", SIDE)
    return tuple(made)
