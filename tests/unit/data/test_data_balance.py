"""Class-balanced choices, and ids for samples."""

import itertools
from collections import Counter

import pytest
import torch
from PIL import Image

from helpers.images import class_folders, write_image
from latentsmith.data.balance import UNREADABLE, balanced, balanced_part, labels_of
from latentsmith.data.base import CorruptSample
from latentsmith.data.hf_dataset import HFDatasetConfig
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.sample_ids import sample_ids
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.subset import subset

LABELS = [0] * 50 + [1] * 5 + [2] * 20 + [3] * 20


@pytest.mark.parametrize("count", [1, 3, 4, 17, 20, 40, 65, 95])
def test_classes_are_as_equal_as_can_be(count):
    chosen = balanced(LABELS, count, seed=0)
    assert len(chosen) == count and chosen.tolist() == sorted(set(chosen.tolist()))
    counts = Counter(LABELS[k] for k in chosen.tolist())
    for label, size in Counter(LABELS).items():
        # who has fewer than somebody else (by more than the last round) has no more to give
        assert counts[label] == size or counts[label] >= max(counts.values()) - 1


def test_a_smaller_choice_is_part_of_a_larger_one():
    sets = [set(balanced(LABELS, count, seed=3).tolist()) for count in (2, 10, 33, 95)]
    assert all(small < large for small, large in itertools.pairwise(sets))


def test_the_seed_chooses_and_large_classes_are_not_preferred():
    assert balanced(LABELS, 12, 1).tolist() == balanced(LABELS, 12, 1).tolist()
    assert balanced(LABELS, 12, 1).tolist() != balanced(LABELS, 12, 2).tolist()
    first = Counter(LABELS[int(balanced(LABELS, 1, seed))] for seed in range(400))
    assert all(70 < first[label] < 130 for label in range(4)), first
    members = Counter(k for seed in range(300) for k in balanced(LABELS, 4, seed).tolist())
    assert set(members) == set(range(95)), "every sample of a class can be chosen"


def test_no_more_than_there_are_and_no_unreadable_ones():
    assert balanced(LABELS, 1000, 0).tolist() == list(range(95))
    assert balanced([0, UNREADABLE, 1], 3, 0).tolist() == [0, 2]


def test_labels_come_without_decoding(tmp_path):
    root = class_folders(tmp_path / "a", 4)
    folder = ImageFolderConfig(folder=root, val_folder=root).build("train", tmp_path)
    (root / "cat" / "0.png").write_text("no image")
    assert labels_of(folder) == [0] * 4 + [1] * 4
    assert labels_of(subset(folder, torch.tensor([7, 0]))) == [1, 0]
    shapes = ShapesConfig(train_count=5).build("train", tmp_path)
    assert labels_of(shapes) == shapes.labels.tolist()
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    known = MemoryDataset(images, torch.tensor([1, 0, 1]), name="m/train", classes=["a", "b"])
    assert labels_of(known) == [1, 0, 1]
    assert labels_of(MemoryDataset(images, name="m/train")) is None
    assert len(balanced_part(MemoryDataset(images, name="m/train"), 2, 0)) == 2


def test_labels_are_read_from_samples_where_there_is_no_other_way():
    class Plain:
        name, classes, origin, digest = "plain/train", ["a", "b"], "here", "0"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise CorruptSample("broken")
            return {"image": torch.zeros(1, 2, 2, dtype=torch.uint8), "label": index // 2}

    assert labels_of(Plain()) == [0, UNREADABLE, 1]


def hub(root, names):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    rows = []
    for k, name in enumerate(names):
        path = write_image(root / "source" / f"{k}.png", value=k)
        rows.append({"bytes": path.read_bytes(), "path": name})
    data = {"image": rows, "label": [f"class {k % 2}" for k in range(len(rows))]}
    features = Features({"image": ImageFeature(), "label": Value("string")})
    Dataset.from_dict(data, features=features).save_to_disk(str(root / "saved"))
    config = HFDatasetConfig(path=str(root / "saved"), label="label", val_fraction=0.5)
    return {split: config.build(split, root) for split in ("train", "val")}


def test_hugging_face_datasets_know_labels_and_names(tmp_path):
    names = [f"n0144_{k}.JPEG" for k in range(8)]
    datasets = hub(tmp_path, names)
    ids = sample_ids(datasets)
    assert sorted(ids["train"] + ids["val"]) == [f"n0144_{k}" for k in range(8)]
    for split, dataset in datasets.items():
        assert labels_of(dataset) == [dataset[k]["label"] for k in range(4)]
        assert labels_of(dataset) == [int(name[-1]) % 2 for name in ids[split]]
    nameless = sample_ids(hub(tmp_path / "other", [None, *names[1:]]))
    assert nameless["val"] == [f"val_{k}" for k in range(4)]


def folders(root):
    return {
        split: ImageFolderConfig(folder=root, val_fraction=0.4).build(split, root)
        for split in ("train", "val")
    }


def test_ids_are_stems_where_these_are_unique(tmp_path):
    for k in range(5):
        write_image(tmp_path / "cat" / f"n01_{k}.v{k}.png", value=k)
    found = sample_ids(folders(tmp_path))
    assert sorted(found["train"] + found["val"]) == [f"n01_{k}.v{k}" for k in range(5)]


def test_ids_are_paths_where_stems_are_not(tmp_path):
    datasets = folders(class_folders(tmp_path))
    found = sample_ids(datasets)
    expected = [f"{name}_{k}" for name in ("cat", "dog") for k in range(5)]
    assert sorted(found["train"] + found["val"]) == expected
    assert found["val"] == [
        path.relative_to(tmp_path).with_suffix("").as_posix().replace("/", "_")
        for path in datasets["val"].files
    ]


def test_ids_name_the_split_where_both_have_the_same_paths(tmp_path):
    for split in ("train", "val"):
        class_folders(tmp_path / split, 2, ("cat",))
    found = sample_ids(folders(tmp_path))
    assert found == {"train": ["train_cat_0", "train_cat_1"], "val": ["val_cat_0", "val_cat_1"]}


def test_ids_are_numbers_as_a_last_resort(tmp_path):
    for name in ("a_b/c.png", "a/b_c.png", "a/c.png", "d/c.png", "d/b_c.png"):
        Image.new("RGB", (4, 4)).save(
            (tmp_path / name).parent.mkdir(exist_ok=True) or tmp_path / name
        )
    found = sample_ids(folders(tmp_path))
    assert found["train"] == ["train_00000000", "train_00000001", "train_00000002"]
    assert found["val"] == ["val_00000000", "val_00000001"]
