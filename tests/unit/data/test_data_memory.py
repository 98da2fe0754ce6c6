"""In-memory datasets, splits, subsets and collation."""

import pytest
import torch

from latentsmith.data.collate import collate
from latentsmith.data.memory import MemoryDataset, seeded_subset, split_indices
from latentsmith.errors import UserError


def test_splits_are_disjoint_complete_and_seeded():
    train, val = (split_indices(50, s, 0.2, 0, "x") for s in ("train", "val"))
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(50)) and len(val) == 10
    assert torch.equal(val, split_indices(50, "val", 0.2, 0, "x"))
    assert not torch.equal(val, split_indices(50, "val", 0.2, 1, "x"))


def test_an_empty_split_is_an_error():
    with pytest.raises(UserError, match=r"3 samples with val_fraction=0\.1"):
        split_indices(3, "train", 0.1, 0, "folder x")


def test_seeded_subset_keeps_order_and_reaches_the_end():
    indices = torch.arange(100, 200)
    part = seeded_subset(indices, 20, 0)
    assert len(part) == 20 and (part.diff() > 0).all() and part.max() > 150
    assert torch.equal(seeded_subset(indices, None, 0), indices)
    assert torch.equal(seeded_subset(indices, 500, 0), indices)


def test_digest_sees_every_pixel_label_shape_and_class():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    labels, classes = torch.tensor([0, 1]), ["a", "b"]

    def digest(images, labels=labels, classes=classes):
        return MemoryDataset(images, labels, name="n", classes=classes).digest

    base = digest(images)
    assert base == digest(images.clone())
    changed = images.clone()
    changed[1, 0, 3, 3] = 1
    others = [
        digest(changed),
        digest(images.view(2, 1, 2, 8)),
        digest(images, torch.tensor([1, 1])),
        digest(images, labels, ["a", "c"]),
        MemoryDataset(images, name="n").digest,
    ]
    assert len({base, *others}) == 6


def test_wrong_arrays_are_refused():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="uint8"):
        MemoryDataset(images.float(), name="n")
    with pytest.raises(ValueError, match="come together"):
        MemoryDataset(images, torch.zeros(2), name="n")
    with pytest.raises(ValueError, match="3 labels for 2 images"):
        MemoryDataset(images, torch.zeros(3), name="n", classes=["a"])


def test_collate_joins_each_kind_of_value():
    samples = [
        {
            "image": torch.full((1, 2), k),
            "label": k,
            "weight": k / 2,
            "caption": str(k),
            "factors": {"x": torch.tensor(k)},
            "words": ["a"] * k,
        }
        for k in (1, 2)
    ]
    batch = collate(samples)
    assert batch["image"].shape == (2, 1, 2)
    assert batch["label"].tolist() == [1, 2] and batch["label"].dtype == torch.int64
    assert batch["weight"].tolist() == [0.5, 1.0]
    assert batch["caption"] == ["1", "2"] and batch["words"] == [["a"], ["a", "a"]]
    assert batch["factors"]["x"].tolist() == [1, 2]
