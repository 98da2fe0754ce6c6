"""What every registered dataset promises, run on a small example of each."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from helpers.images import class_folders, write_csv, zip_of
from helpers.wallpapers import SIDE, small_wallpapers
from latentsmith.data import memory
from latentsmith.data.base import DATASETS, Dataset, keys_of
from latentsmith.data.edited import edited, has_edits
from latentsmith.data.fashion_mnist import verify
from latentsmith.data.fashion_mnist.idx import sha256, write_idx
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import TransformConfig
from latentsmith.stores.texts import captions


def fashion_mnist(root, monkeypatch):
    root.mkdir()
    generator = torch.Generator().manual_seed(0)
    for part, name in verify.FILES.items():
        shape = (12, 28, 28) if "images" in part else (12,)
        top = 256 if "images" in part else 10
        values = torch.randint(0, top, shape, dtype=torch.uint8, generator=generator)
        write_idx(root / f"{name}.gz", values)
        monkeypatch.setitem(verify.SHA256, part, sha256(values))
    return {"folder": root}


def image_folder(root, monkeypatch):
    return {"folder": class_folders(root, 8)}


def image_list(root, monkeypatch):
    files = [path.relative_to(root) for path in sorted(class_folders(root, 8).rglob("*.png"))]
    rows = [[file, file, f"turn {file.stem}"] for file in files]
    return {"file": write_csv(root / "edits.csv", ["image", "target", "instruction"], *rows)}


def hf_dataset(root, monkeypatch):
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage

    data = {
        "image": [PILImage.new("RGB", (9, 8), (k, 0, 0)) for k in range(12)],
        "label": [k % 2 for k in range(12)],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    Dataset.from_dict(data, features=features).save_to_disk(str(root))
    return {"path": str(root), "label": "label"}


def wallpapers(root, monkeypatch):
    small_wallpapers(root, monkeypatch)
    return {"folder": root, "resolution": 16, "sizes": [SIDE]}


def zip_csv(root, monkeypatch):
    return {"archive": zip_of(class_folders(root, 8), root / "pictures.zip")}


EXAMPLES: dict[str, Callable[[Path, pytest.MonkeyPatch], dict]] = {
    "digits": lambda root, monkeypatch: {},
    "fashion_mnist": fashion_mnist,
    "hf_dataset": hf_dataset,
    "image_folder": image_folder,
    "image_list": image_list,
    "photos": lambda root, monkeypatch: {"reduce": 4, "resolution": 32},
    "shapes": lambda root, monkeypatch: {"resolution": 16, "train_count": 30, "val_count": 10},
    "wallpapers": wallpapers,
    "zip_csv": zip_csv,
}
"""Settings that make a small example; a new dataset adds one."""

OTHER: dict[str, dict] = {
    "digits": {"seed": 1},
    "fashion_mnist": {"train_count": 5},
    "hf_dataset": {"seed": 1},
    "image_folder": {"seed": 1},
    "image_list": {"seed": 1},
    "photos": {"stride": 15},
    "shapes": {"seed": 1},
    "wallpapers": {"stride": 15},
    "zip_csv": {"seed": 1},
}
"""A setting that changes the training samples."""


@pytest.fixture(params=DATASETS.names())
def example(request, tmp_path, monkeypatch):
    """(build(split="train", **more settings), name) of each registered dataset."""
    name = request.param
    assert name in EXAMPLES, f"add a small example of dataset {name!r} to EXAMPLES and OTHER"
    settings = EXAMPLES[name](tmp_path / "source", monkeypatch)

    def build(split="train", **more):
        return DATASETS[name].config(**settings, **more).build(split, tmp_path / "cache")

    return build, name


def test_attributes(example):
    build, _ = example
    for split in ("train", "val"):
        dataset = build(split)
        assert isinstance(dataset, Dataset) and len(dataset) > 0
        assert dataset.name.endswith(f"/{split}") and dataset.origin
        assert int(dataset.digest, 16) >= 0


def test_samples(example):
    dataset = example[0]()
    for index in range(min(len(dataset), 10)):
        sample = dataset[index]
        image = sample["image"]
        assert image.dtype == torch.uint8 and image.dim() == 3 and image.shape[0] in (1, 3)
        if dataset.classes is not None:
            assert isinstance(sample["label"], int)
            assert 0 <= sample["label"] < len(dataset.classes)
        else:
            assert "label" not in sample


def test_keys_are_unique_over_the_samples(example):
    dataset = example[0]()
    keys = keys_of(dataset)
    assert len(keys) == len(set(keys)) == len(dataset)


def test_images_that_are_promised_are_there(example):
    """``image_keys``, and of edits the texts (`latentsmith.data.edited`)."""
    dataset = example[0]()
    sample = dataset[0]
    for key in getattr(dataset, "image_keys", ("image",)):
        assert sample[key].dtype == torch.uint8 and sample[key].dim() == 3
    if has_edits(dataset):
        assert isinstance(sample["instruction"], str) and isinstance(sample["caption"], str)
        assert edited(dataset)[0]["caption"] == sample["instruction"]
        assert captions(edited(dataset)).unique[0] == sample["instruction"]


def test_the_same_again(example):
    build, _ = example
    a, b = build(), build()
    assert a.digest == b.digest and len(a) == len(b)
    for index in (0, len(a) - 1):
        assert torch.equal(a[index]["image"], b[index]["image"])
        assert torch.equal(a[index]["image"], a[index]["image"])


def test_digest_changes_with_the_data(example):
    build, name = example
    digests = {build().digest, build("val").digest, build(**OTHER[name]).digest}
    assert len(digests) == 3


def test_splits_share_classes_and_no_sample(example):
    build, _ = example
    train, val = build(), build("val")
    assert train.classes == val.classes
    seen = {train[k]["image"].numpy().tobytes() for k in range(len(train))}
    repeated = sum(val[k]["image"].numpy().tobytes() in seen for k in range(len(val)))
    assert repeated <= len(val) // 100  # digits holds a few equal pictures


def test_gather_gives_the_single_samples(example):
    dataset = example[0]()
    if not memory.can_gather(dataset):
        pytest.skip("gives samples one by one")
    batch = dataset.gather(torch.tensor([3, 0, 3]))
    for row, index in enumerate((3, 0, 3)):
        assert torch.equal(batch["image"][row], dataset[index]["image"])
        if dataset.classes is not None:
            assert int(batch["label"][row]) == dataset[index]["label"]


def test_loads(example):
    dataset = example[0]()
    loader = Loader(dataset, TransformConfig(resolution=8).build(), batch_size=5, seed=0)
    iterator = loader.iterate(0)
    batch = next(iterator)
    iterator.close()
    assert batch["image"].shape == (5, 3, 8, 8)
    if dataset.classes is not None:
        expected = [dataset[index]["label"] for index in batch["index"].tolist()]
        assert batch["label"].tolist() == expected


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_setting_has_help(name):
    from latentsmith.config.fields import field_help

    config = DATASETS[name].config
    helps = field_help(config)
    missing = [f.name for f in fields(config) if f.name != "kind" and not helps.get(f.name)]
    assert not missing and DATASETS[name].help
