"""Hugging Face datasets without a network."""

import pytest
import torch
from PIL import Image as PILImage

from helpers.images import class_folders
from latentsmith.data.base import CorruptSample
from latentsmith.data.edited import edited, has_edits
from latentsmith.data.hf_dataset import HFDatasetConfig
from latentsmith.data.loader import Loader
from latentsmith.data.settings import dataset_config
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.stores.texts import captions


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


EDITS = {
    "image": "original_image",
    "target": "edited_image",
    "instruction": "edit_prompt",
    "target_caption": "edited_prompt",
}


def edit_table(green=90):
    """Edits, named as InstructPix2Pix's: 8 rows, without target in row 2, without caption in 3."""
    from datasets import Dataset, Features, Image, Value

    words = ("edit_prompt", "original_prompt", "edited_prompt")
    data = {
        "original_image": [PILImage.new("RGB", (6, 5), (k, 2, 3)) for k in range(8)],
        "edited_image": [PILImage.new("RGB", (9, 8 + k % 2), (k, green, 3)) for k in range(8)],
        **{name: [f"{name} {k}" for k in range(8)] for name in words},
    }
    data["edited_image"][2] = data["original_prompt"][3] = None
    columns = {name: Value("string") for name in words}
    images = {name: Image() for name in ("original_image", "edited_image")}
    return Dataset.from_dict(data, features=Features(images | columns))


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "triples"
    edit_table().save_to_disk(str(folder))
    return folder


def seven(folder, **settings):
    """All edits but number 7."""
    return build(folder, val_fraction=0.125, seed=1, **EDITS, **settings)


def test_edits_by_named_columns(triples):
    dataset = seven(triples, caption="original_prompt")
    assert has_edits(dataset) and len(dataset) == 7
    index = next(k for k in range(7) if dataset.instruction(k) == "edit_prompt 5")
    sample = dataset[index]
    assert sample["image"].shape == (3, 5, 6) and sample["target"].shape == (3, 9, 9)
    assert sample["target"][:, 0, 0].tolist() == [5, 90, 3]
    words = [sample[key] for key in ("caption", "instruction", "target_caption")]
    assert words == ["original_prompt 5", "edit_prompt 5", "edited_prompt 5"]
    other = edited(subset(dataset, torch.tensor([index])))
    assert torch.equal(other[0]["image"], sample["target"]) and other.caption(0) == words[1]


def test_captions_are_told_without_images_and_none_is_empty(triples, monkeypatch):
    dataset = seven(triples, caption="original_prompt")
    monkeypatch.setattr("latentsmith.data.hf_dataset.decode_image", None)
    own = {dataset.instruction(k): dataset.caption(k) for k in range(7)}
    assert own.pop("edit_prompt 3") == ""
    assert own and all(key[-1] == value[-1] for key, value in own.items())
    assert captions(edited(dataset)).unique[:7] == [dataset.instruction(k) for k in range(7)]
    plain = build(triples, image="original_image", val_fraction=0.125)
    assert plain.caption(0) is None and plain.instruction(0) is None


def test_sizes_become_one_and_a_missing_target_is_a_corrupt_sample(triples):
    dataset = seven(triples, caption="original_prompt")
    bad = next(k for k in range(7) if dataset.instruction(k) == "edit_prompt 2")
    with pytest.raises(CorruptSample, match="no target"):
        dataset[bad]
    transform = TransformConfig(resolution=8).build()
    batch = next(Loader(dataset, transform, batch_size=7, seed=0).epoch())
    assert batch["image"].shape == batch["target"].shape == (6, 3, 8, 8)
    assert bad not in batch["index"].tolist()


def test_edits_without_captions_have_empty_ones(triples, caplog):
    dataset = seven(triples)
    assert dataset[0]["caption"] == "" == dataset.caption(0)
    assert captions(dataset).unique == [""] and "every caption is empty" in caplog.text


def test_digest_sees_the_edits(triples, tmp_path):
    base = build(triples, image="original_image").digest
    with_edits = build(triples, **EDITS).digest
    swapped = EDITS | {"image": "edited_image", "target": "original_image"}
    edit_table(green=91).save_to_disk(str(tmp_path / "greener"))
    greener = build(tmp_path / "greener", **EDITS).digest
    assert len({base, with_edits, greener, build(triples, **swapped).digest}) == 4
    assert build(triples, **EDITS).digest == with_edits


def test_half_an_edit_is_refused(triples):
    for words, match in (
        (["target=a"], r"target=a and no instruction.*instruction=COLUMN"),
        (["instruction=a"], r"instruction=a and no target.*target=COLUMN"),
        (["target_caption=a"], r"target_caption=a is of edited images"),
    ):
        with pytest.raises(UserError, match=match):
            dataset_config("hf_dataset", ["path=x", *words])
    with pytest.raises(UserError, match=r"'edit_prompt'.*\(setting 'target'\).*not images"):
        build(triples, **EDITS | {"target": "edit_prompt"})
    with pytest.raises(UserError, match=r"no column 'gone' \(setting 'instruction'\)"):
        build(triples, **EDITS | {"instruction": "gone"})
