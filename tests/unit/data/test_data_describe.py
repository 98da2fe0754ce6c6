"""What is printed and drawn of a dataset."""

import numpy as np
import torch
from PIL import Image

from helpers.images import write_csv, write_image
from latentsmith.data.describe import check_all, describe, write_grid
from latentsmith.data.image_list import ImageListConfig
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.transforms import TransformConfig


def edits(root):
    rows = []
    for k in range(6):
        write_image(root / f"{k}.png", value=k)
        write_image(root / f"{k}b.png", value=50 + k, size=(20, 24))
        rows.append([f"{k}.png", f"{k}b.png", f"do {k}", f"a {k}"])
    file = write_csv(root / "list.csv", ["image", "target", "instruction", "caption"], *rows)
    return ImageListConfig(file=file, val_file=file).build("train", root / "cache")


def test_edits_are_described(tmp_path):
    told = describe(edits(tmp_path)).splitlines()
    assert "keys           caption, file, image, instruction, target, target_file" in told
    assert told[2:7:2] == [
        "first image    3 channel(s), 10 x 12 pixels",
        "first caption  a 0",
        "edited image   3 channel(s), 24 x 20 pixels",
    ]
    assert "first edit     do 0" in told


def test_other_data_are_described_as_before():
    told = describe(ShapesConfig(resolution=16, train_count=8).build("train", None))
    assert "first caption" in told and "edit" not in told


def test_a_grid_shows_both_sides_of_edits(tmp_path):
    dataset = edits(tmp_path)
    write_grid(dataset, tmp_path / "grid.png", side=8)
    with Image.open(tmp_path / "grid.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert pixels.shape == (3, 16, 64)  # six pairs, eight images to a row
    transform = TransformConfig(resolution=8).build()
    for k, key in ((0, "image"), (1, "target"), (10, "image"), (11, "target")):
        shown = pixels[:, k // 8 * 8 : k // 8 * 8 + 8, k % 8 * 8 : k % 8 * 8 + 8]
        want = transform(dataset[k // 2][key]).mul(255).round().to(torch.uint8)
        assert torch.equal(shown, want)


def test_an_unreadable_target_is_found(tmp_path):
    dataset = edits(tmp_path)
    (tmp_path / "3b.png").write_text("<html>")
    (bad,) = check_all(dataset)
    assert str(tmp_path / "3b.png") in bad
