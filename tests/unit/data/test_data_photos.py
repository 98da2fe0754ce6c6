"""Squares of photographs: never one pixel in both splits."""

from pathlib import Path

import pytest
import torch

from latentsmith.data import photos
from latentsmith.data.crops import region, squares
from latentsmith.data.photos import NAMES, PhotosConfig, photograph, reduced
from latentsmith.errors import UserError


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (50, 50)])
def test_regions_share_no_pixel_and_hold_all(shape):
    picture = torch.arange(shape[0] * shape[1]).view(1, *shape)
    parts = [region(picture, split, 16, 0.3, "p").flatten().tolist() for split in ("train", "val")]
    assert not set(parts[0]) & set(parts[1])
    assert sorted(parts[0] + parts[1]) == list(range(shape[0] * shape[1]))
    assert len(parts[1]) == max(16, round(0.3 * max(shape))) * min(shape)


def test_squares_are_crops():
    picture = torch.randint(255, (3, 30, 41))
    cut = squares(picture, 8, 11)
    assert cut.shape == (3 * 4, 3, 8, 8)
    assert torch.equal(cut[4 + 2], picture[:, 11:19, 22:30])


def test_train_and_val_squares_never_overlap(monkeypatch):
    """Every pixel carries its place, so a shared one would be seen."""

    def numbered(name):
        places = torch.arange(60 * 90).view(60, 90)
        return torch.stack([places % 251, places // 251, torch.full_like(places, 7)]).byte()

    monkeypatch.setattr(photos, "photograph", numbered)
    seen = {}
    for split in ("train", "val"):
        images = PhotosConfig(resolution=16, stride=5, val_stride=5).build(split, Path()).images
        seen[split] = {tuple(p) for p in images.permute(0, 2, 3, 1).flatten(0, 2).tolist()}
    assert len(seen["train"]) > 1000 and len(seen["val"]) > 300
    assert not seen["train"] & seen["val"]


def test_the_photographs():
    assert [tuple(photograph(name).shape) for name in NAMES] == [
        (3, 427, 640), (3, 427, 640), (3, 600, 512),
    ]  # fmt: skip
    dataset = PhotosConfig().build("val", Path())
    assert dataset.images.shape == (21, 3, 96, 96) and dataset.classes == NAMES
    assert dataset.labels is not None and dataset.labels.unique().tolist() == [0, 1, 2]
    dense = PhotosConfig(val_stride=48).build("val", Path())
    assert len(dense) > 21
    half = PhotosConfig(reduce=2, resolution=32).build("train", Path())
    block = photograph("china")[:, :64, :64].float().unflatten(1, (32, 2)).unflatten(3, (32, 2))
    torch.testing.assert_close(half.images[0].float(), block.mean((2, 4)).round(), rtol=0, atol=1)
    assert torch.equal(reduced(dataset.images[0], 1), dataset.images[0])


def test_squares_too_large_for_two_regions():
    with pytest.raises(UserError, match=r"photograph china is 106 x 160.*squares of 128"):
        PhotosConfig(reduce=4, resolution=128).build("train", Path())


def test_a_missing_photograph_says_where_it_comes_from(monkeypatch):
    def missing(name):
        raise AttributeError("Cannot find sample image")

    monkeypatch.setattr("sklearn.datasets.load_sample_image", missing)
    with pytest.raises(UserError, match="flower is missing from the installed scikit-learn"):
        photograph("flower")
