"""Captions of every kind of dataset that reads them from a user's files, whole and in part."""

import pytest
import torch

from helpers.images import write_csv, write_image, zip_of
from latentsmith.data.hf_dataset import HFDatasetConfig
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.image_list import ImageListConfig
from latentsmith.data.subset import Subset
from latentsmith.data.zip_csv import ZipCSVConfig
from latentsmith.stores.texts import captions

TOLD = ["a red cat", "a dog, asleep", "a house", "snow"]


def image_folder(root):
    for path, text in zip(sorted((root / "all").iterdir()), TOLD, strict=True):
        path.with_suffix(".txt").write_text(text + "\n")
    return ImageFolderConfig(
        folder=root / "all", labels=False, captions=True, val_folder=root / "all"
    )


def image_list(root):
    rows = [[f"all/{k}.png", text] for k, text in enumerate(TOLD)]
    file = write_csv(root / "list.csv", ["image", "caption"], *rows)
    return ImageListConfig(file=file, val_file=file)


def zip_csv(root):
    archive = zip_of(root / "all", root / "all.zip")
    rows = [[str(k), text] for k, text in enumerate(TOLD)]
    file = write_csv(root / "all.csv", ["sample_id", "caption"], *rows)
    return ZipCSVConfig(archive=archive, val_manifest=file)


def hf_dataset(root):
    from datasets import Dataset, DatasetDict, Features, Image, Value

    rows = {"picture": [str(path) for path in sorted((root / "all").iterdir())], "text": TOLD}
    features = Features({"picture": Image(), "text": Value("string")})
    table = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": table, "val": table}).save_to_disk(str(root / "saved"))
    return HFDatasetConfig(
        path=str(root / "saved"), image="picture", caption="text", val_split="val"
    )


@pytest.mark.parametrize("kind", [image_folder, image_list, zip_csv, hf_dataset])
def test_captions_whole_and_in_part_without_decoding(tmp_path, monkeypatch, kind):
    for k in range(4):
        write_image(tmp_path / "all" / f"{k}.png", value=k)
    dataset = kind(tmp_path).build("train", tmp_path / "cache")
    assert [dataset[k]["caption"] for k in range(4)] == TOLD
    monkeypatch.setattr(f"{type(dataset).__module__}.decode_image", None)
    assert captions(dataset).unique == [*TOLD, ""]
    few = Subset(Subset(dataset, torch.tensor([3, 1, 0])), torch.tensor([2, 0]))
    assert captions(few).unique == [TOLD[0], TOLD[3], ""]
    assert captions(few).of_sample.tolist() == [0, 1]
