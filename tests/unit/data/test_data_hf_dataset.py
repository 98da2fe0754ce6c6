"""Hugging Face datasets without a network."""

import pytest
import torch
from PIL import Image as PILImage

from helpers.images import class_folders
from latentsmith.data.base import CorruptSample
from latentsmith.data.hf_dataset import HFDatasetConfig
from latentsmith.errors import UserError


def rows(n, offset=0):
    images = [PILImage.new("RGB", (6 + k % 3, 5), (k + offset, 2, 3)) for k in range(n)]
    return {
        "picture": images,
        "kind": [k % 3 for k in range(n)],
        "word": [["b", "a"][k % 2] for k in range(n)],
        "text": [f"picture {k}" for k in range(n)],
    }


def table(n, offset=0):
    from datasets import ClassLabel, Dataset, Features, Image, Value

    features = Features(
        {
            "picture": Image(),
            "kind": ClassLabel(names=["x", "y", "z"]),
            "word": Value("string"),
            "text": Value("string"),
        }
    )
    return Dataset.from_dict(rows(n, offset), features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from datasets import DatasetDict

    folder = tmp_path_factory.mktemp("hf") / "saved"
    DatasetDict({"train": table(12), "test": table(4, 100)}).save_to_disk(str(folder))
    return folder


def build(path, split="train", **settings):
    settings = {"image": "picture"} | settings
    return HFDatasetConfig(path=str(path), **settings).build(split, path.parent / "cache")


def test_saved_folder_with_named_columns(saved):
    train = build(saved, label="kind", caption="text", val_split="test")
    val = build(saved, "val", label="kind", caption="text", val_split="test")
    assert (len(train), len(val)) == (12, 4) and train.classes == ["x", "y", "z"]
    sample = train[4]
    assert sample["image"].shape == (3, 5, 7) and sample["image"][:, 0, 0].tolist() == [4, 2, 3]
    assert sample["label"] == 1 and sample["caption"] == "picture 4"
    assert val[0]["image"][0, 0, 0] == 100


def test_without_columns_there_are_only_images(saved):
    dataset = build(saved, val_split="test", mode="gray")
    assert set(dataset[0]) == {"image"} and dataset.classes is None
    assert dataset[0]["image"].shape == (1, 5, 6)


def test_string_labels_become_classes(saved):
    dataset = build(saved, label="word", val_split="test")
    assert dataset.classes == ["a", "b"] and [dataset[k]["label"] for k in range(3)] == [1, 0, 1]


def test_held_out_fraction_and_counts(saved):
    train = build(saved, val_fraction=0.25, caption="text")
    val = build(saved, "val", val_fraction=0.25, caption="text")
    told = [d[k]["caption"] for d in (train, val) for k in range(len(d))]
    assert len(val) == 3 and sorted(told) == sorted(rows(12)["text"])
    assert len(build(saved, train_count=5, val_split="test")) == 5


def test_digest_sees_pixels_columns_and_choice(saved, tmp_path):
    base = build(saved, val_split="test").digest
    assert build(saved, val_split="test").digest == base
    table(12, 1).save_to_disk(str(tmp_path / "other"))
    digests = {
        base,
        build(tmp_path / "other", val_fraction=0.1).digest,
        build(saved, val_split="test", label="kind").digest,
        build(saved, val_split="test", train_count=5).digest,
        build(saved, "val", val_split="test").digest,
    }
    assert len(digests) == 5


def test_image_folder_of_the_datasets_library(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    root = class_folders(tmp_path / "pictures", 4)
    dataset = build(root, image="image", label="label", val_fraction=0.25)
    assert len(dataset) == 6 and dataset.classes == ["cat", "dog"]
    assert dataset[0]["image"].shape == (3, 10, 12) and len(dataset.digest) == 32


def test_missing_label_and_image_are_corrupt_samples(tmp_path):
    data = table(4)
    data = data.map(lambda row, k: {"word": None if k == 1 else row["word"]}, with_indices=True)
    data = data.map(
        lambda row, k: {"picture": None if k == 2 else row["picture"]}, with_indices=True
    )
    data.save_to_disk(str(tmp_path / "holes"))
    # everything is kept: the validation split is the same table
    config = {"label": "word", "val_fraction": 0.25}
    both = [build(tmp_path / "holes", split, **config) for split in ("train", "val")]
    bad = []
    for dataset in both:
        for k in range(len(dataset)):
            try:
                assert isinstance(dataset[k]["image"], torch.Tensor)
            except CorruptSample as error:
                bad.append(str(error))
    assert len(bad) == 2 and any("no image" in b for b in bad) and any("None" in b for b in bad)


def test_errors_list_what_there_is(saved, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no column 'image'.*picture, kind, word, text"):
        build(saved, image="image")
    with pytest.raises(UserError, match=r"no column 'txt' \(setting 'caption'\)"):
        build(saved, caption="txt")
    with pytest.raises(UserError, match=r"'word'.*not images"):
        build(saved, image="word")
    with pytest.raises(UserError, match=r"no split 'tst'.*'test'"):
        build(saved, "val", val_split="tst")
    with pytest.raises(UserError, match="does not exist"):
        build(tmp_path / "nowhere")
    table(4).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(UserError, match="saved without splits"):
        build(tmp_path / "one", "val", val_split="test")


def test_a_hub_id_that_cannot_be_reached(tmp_path, monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"'someone/pictures'.*ConnectionError: no route"):
        HFDatasetConfig(path="someone/pictures").build("train", tmp_path)
