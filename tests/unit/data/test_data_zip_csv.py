"""ZIPs with a CSV: written by hand in any way, read from anywhere, mistakes told in sentences."""

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import class_folders, write_csv, write_image, zip_of
from latentsmith.data.base import CorruptSample, keys_of
from latentsmith.data.loader import Loader
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.data.zip_csv import ZipCSVConfig
from latentsmith.errors import UserError
from latentsmith.stores.texts import captions


def build(archive, split="train", **settings):
    return ZipCSVConfig(archive=archive, **settings).build(split, archive.parent / "cache")


@pytest.fixture
def source(tmp_path) -> Path:
    """cat/0.png … dog/4.png, outside of a ZIP."""
    return class_folders(tmp_path / "source")


@pytest.fixture
def archive(tmp_path, source) -> Path:
    return zip_of(source, tmp_path / "pets.zip")


def listed(archive: Path, *rows, **settings):
    """The archive with another CSV, all of it for validation."""
    write_csv(archive.with_suffix(".csv"), *rows)
    return build(archive, "val", val_manifest=archive.with_suffix(".csv"), **settings)


def pixels(path: Path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("compression", [0, ZIP_DEFLATED])
def test_samples_are_the_files(tmp_path, source, compression):
    archive = zip_of(source, tmp_path / "pets.zip", compression=compression)
    train, val = build(archive, val_fraction=0.3), build(archive, "val", val_fraction=0.3)
    assert (len(train), len(val)) == (7, 3) and train.classes == val.classes == ["cat", "dog"]
    assert set(train.sample_keys()).isdisjoint(val.sample_keys())
    for dataset in (train, val):
        for k, key in enumerate(keys_of(dataset)):
            sample = dataset[k]
            assert sample["file"] == f"{key}.png"
            assert dataset.classes[sample["label"]] == key.split("/")[0]
            assert torch.equal(sample["image"], pixels(source / sample["file"]))
    assert train.name == "zip_csv:pets/train" and str(archive) in train.origin


def test_only_ids_are_needed(archive):
    data = listed(archive, ["sample_id", "weather"], ["dog/4", "rain"], ["cat/1", "sun"])
    assert data.classes is None and data.captions is None
    assert keys_of(data) == ["dog/4", "cat/1"] and set(data[0]) == {"image", "file"}


@pytest.mark.parametrize("sample", ["7", "7.jpg", "deep/er/7", "deep/er/7.jpg"])
def test_members_are_found_by_short_names(tmp_path, sample):
    write_image(tmp_path / "7.jpg")
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "7.jpg", "deep/er/7.jpg")
        archive.writestr("deep/er/7.txt", "not an image")
        archive.writestr("deep/er/", "")
    assert listed(tmp_path / "a.zip", ["sample_id"], [sample])[0]["file"] == "deep/er/7.jpg"


def test_a_name_without_folder_is_no_longer_a_name_when_two_have_it(archive):
    with pytest.raises(UserError, match=r"several members for sample '0'.*column 'file'"):
        listed(archive, ["sample_id"], ["0"])
    rows = ["file", "sample_id"], ["dog/0.png", "0"], ["cat/0.png", "zero"]
    data = listed(archive, *rows)
    assert keys_of(data) == ["0", "zero"] and data[1]["file"] == "cat/0.png"
    with ZipFile(archive, "a") as opened:  # a whole path goes before a part of one
        opened.writestr("0.png", (archive.parent / "source" / "dog" / "3.png").read_bytes())
    assert listed(archive, ["sample_id"], ["0"])[0]["file"] == "0.png"


def test_the_column_split_splits(archive):
    rows = [["sample_id", "split"], ["cat/0", "train"], ["cat/1", "validation"], ["cat/2", "test"]]
    write_csv(archive.with_suffix(".csv"), *rows, ["dog/0", "val"], ["dog/1", "train"])
    assert keys_of(build(archive)) == ["cat/0", "dog/1"]
    assert keys_of(build(archive, "val")) == ["cat/1", "dog/0"]


def test_a_csv_for_each_split(archive, tmp_path):
    train = write_csv(
        tmp_path / "a.csv", ["sample_id", "class_name"], ["cat/0", "x"], ["dog/0", "y"]
    )
    val = write_csv(tmp_path / "b.csv", ["sample_id", "class_name"], ["dog/1", "y"])
    settings = {"manifest": train, "val_manifest": val}
    assert keys_of(build(archive, **settings)) == ["cat/0", "dog/0"]
    held = build(archive, "val", **settings)
    assert keys_of(held) == ["dog/1"] and held[0]["label"] == 1 and held.classes == ["x", "y"]


def test_an_archive_for_each_split(tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    zip_of(class_folders(tmp_path / "a", 3), folder / "train.zip")
    zip_of(class_folders(tmp_path / "b", 2, ("cat", "dog")), folder / "val.zip")
    assert (len(build(folder)), len(build(folder, "val"))) == (6, 4)
    assert build(folder, "val").name == "zip_csv:both/val"
    apart = {"val_archive": folder / "val.zip"}
    assert len(build(folder / "train.zip", "val", **apart)) == 4
    table = tmp_path / "one.csv"  # one CSV, two archives
    write_csv(table, ["sample_id", "split"], ["cat/2", "train"], ["cat/1", "val"])
    assert keys_of(build(folder, "val", manifest=table)) == ["cat/1"]
    assert str(folder / "val.zip") in build(folder, "val", manifest=table).origin
    (folder / "val.zip").rename(folder / "val.zip.partial")
    with pytest.raises(UserError, match=r"val\.zip is not finished.*goes on"):
        build(folder, "val")
    (folder / "val.zip.partial").unlink()
    assert len(build(folder, "val", val_fraction=0.5)) == 3


def test_captions(archive):
    data = listed(archive, ["sample_id", "caption"], ["cat/0", 'a "cat",\nasleep'], ["cat/1", ""])
    assert data[0]["caption"] == 'a "cat",\nasleep' == data.caption(0)
    assert captions(data).unique == ['a "cat",\nasleep', ""]
    assert captions(subset(data, torch.tensor([1]))).of_sample.tolist() == [0]


def test_counts_and_modes(archive):
    few = build(archive, train_count=4)
    assert len(few) == 4 and keys_of(few) == keys_of(build(archive, train_count=4))
    assert keys_of(few) != keys_of(build(archive, train_count=4, seed=1))
    assert few.classes == ["cat", "dog"]
    assert build(archive, mode="gray")[0]["image"].shape == (1, 10, 12)


def test_classes_that_have_no_sample_are_named_apart(archive, tmp_path):
    rows = ["sample_id", "class_id"], ["cat/0", 2], ["dog/0", 0]
    with pytest.raises(UserError, match=r"go up to 2, but there is no sample of 1\. .*'classes'"):
        listed(archive, *rows)
    names = write_csv(tmp_path / "n.csv", ["class_id", "class_name"], *enumerate("abc"))
    assert listed(archive, *rows, classes=names).classes == ["a", "b", "c"]
    by_name = listed(archive, ["sample_id", "class_name"], ["cat/0", "c"], classes=names)
    assert by_name.classes == ["a", "b", "c"] and by_name.labels == [2]
    names.rename(tmp_path / "classes.csv")  # beside the CSV it is found
    assert listed(archive, *rows).labels == [2, 0]
    (tmp_path / "classes.csv").unlink()
    named = ["sample_id", "class_id", "class_name"]
    crane = listed(archive, named, ["cat/0", 1, "crane"], ["dog/0", 0, "crane"])  # ImageNet has two
    assert crane.classes == ["crane", "crane"] and crane.labels == [1, 0]


def test_digest_sees_ids_members_bytes_labels_captions_and_mode(archive, source, tmp_path):
    whole = ["sample_id", "file", "class_name", "caption"]
    rows = [["a", "cat/0.png", "cat", "x"], ["b", "dog/0.png", "dog", "y"]]
    base = listed(archive, whole, *rows)
    assert base.digest == listed(archive, whole, *rows).digest
    digests = {base.digest, listed(archive, whole, *rows, mode="gray").digest}
    for column, value in enumerate(["c", "cat/1.png", "kitten", "z"]):
        changed = [*rows[0][:column], value, *rows[0][column + 1 :]]
        digests.add(listed(archive, whole, changed, rows[1]).digest)
    digests.add(listed(archive, whole, *reversed(rows)).digest)
    write_image(source / "cat" / "0.png", value=999)
    archive.unlink()
    zip_of(source, archive)
    digests.add(listed(archive, whole, *rows).digest)
    assert len(digests) == 8


def test_damage_is_told_and_skipped(archive):
    data = build(archive, val_manifest=archive.with_suffix(".csv"))
    with ZipFile(archive) as opened:
        info = opened.getinfo("cat/2.png")
    raw = bytearray(archive.read_bytes())
    raw[info.header_offset + 60] ^= 1  # one bit of its bytes
    archive.write_bytes(raw)
    with pytest.raises(
        CorruptSample, match=r"pets\.zip, member cat/2\.png: its bytes do not match"
    ):
        data[2]
    raw[info.header_offset] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(CorruptSample, match=r"cat/2\.png: there is no member where the directory"):
        data[2]
    loader = Loader(data, TransformConfig(resolution=8).build(), batch_size=10, seed=0)
    assert next(loader.epoch())["index"].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    archive.unlink()
    with pytest.raises(CorruptSample, match="No such file"):
        build_unopened(data)[0]


def build_unopened(data):
    return pickle.loads(pickle.dumps(data))


def test_a_member_that_is_no_image(tmp_path):
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", "<html>404</html>")
    data = listed(tmp_path / "a.zip", ["sample_id"], ["0"])
    with pytest.raises(CorruptSample, match=r"a\.zip, member 0\.png"):
        data[0]


def images(data) -> list[bytes]:
    return [data[k]["image"].numpy().tobytes() for k in range(len(data))]


def send(data, connection) -> None:
    """Runs in a child."""
    connection.send(images(data))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("opened", [False, True])
def test_children_read_it_too_also_while_the_parent_does(archive, method, opened):
    data = build(archive)
    expected = images(build(archive))
    if opened:
        data[0]
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=send, args=(data, theirs))
    child.start()
    for _ in range(20):
        assert images(data) == expected
    assert ours.recv() == expected
    child.join()
    assert child.exitcode == 0


def test_threads_read_it_at_once(archive):
    data = build(archive)
    expected, seen, start = images(build(archive)), [], threading.Barrier(8)

    def work():
        start.wait()
        seen.append([images(data) for _ in range(10)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[expected] * 10] * 8


Mistake = Callable[[Path], object]
IDS = ["sample_id"]
NUMBERED = ["sample_id", "class_id", "class_name"]
MISTAKES: dict[str, Mistake] = {
    r"archive .*nowhere\.zip does not exist": lambda a: build(a.with_name("nowhere.zip")),
    r"there is no .*gone\.csv: .*'manifest'": lambda a: build(a, manifest=a.with_name("gone.csv")),
    r"pets\.csv cannot be read as ZIP": lambda a: build(a.with_suffix(".csv")),
    r"pets\.csv has no column 'sample_id' .*It has: id, class\.": lambda a: listed(
        a, ["id", "class"], ["cat/0", "x"]
    ),
    r"has no column 'sample_id' .*It is empty": lambda a: listed(a),
    r"pets\.csv has a header and no rows": lambda a: listed(a, IDS),
    r"several columns of one name: split": lambda a: listed(a, [*IDS, "split", "split"], "abc"),
    r"pets\.csv, line 3: 2 fields, but the header has 1": lambda a: listed(a, IDS, "a", "ab"),
    r"pets\.csv, line 3: sample_id is empty": lambda a: listed(a, [*IDS, "x"], "ab", ["", "b"]),
    r"sample_id 'cat/0' is in line 2 and again in line 4": lambda a: listed(
        a, IDS, ["cat/0"], ["cat/1"], ["cat/0"]
    ),
    r"no image for 2 of 3 samples \(column sample_id\): 'bird/0', 'x'\. Its 10 images: 'cat/0": (
        lambda a: listed(a, IDS, ["bird/0"], ["cat/0"], ["x"])
    ),
    r"no image for 1 of 1 samples \(column file\): 'cat/0'": lambda a: listed(
        a, [*IDS, "file"], ["a", "cat/0"]
    ),
    r"line 2: split 'Train' is none of train, ": lambda a: listed(
        a, [*IDS, "split"], ["cat/0", "Train"]
    ),
    r"has no row whose split is 'val'": lambda a: listed(a, [*IDS, "split"], ["cat/0", "train"]),
    r"line 2: class_id '1\.0' should be a whole number": lambda a: listed(
        a, NUMBERED, ["cat/0", "1.0", "x"]
    ),
    r"line 3: class_id '' should be a whole number": lambda a: listed(
        a, NUMBERED, ["cat/0", 0, "x"], ["cat/1", "", ""]
    ),
    r"line 3: class_id 0 is called 'y', but 'x' in pets\.csv, line 2": lambda a: listed(
        a, NUMBERED, ["cat/0", 0, "x"], ["cat/1", 0, "y"]
    ),
    r"go up to 9999999999, but there is no sample of 0, 1": lambda a: listed(
        a, NUMBERED, ["cat/0", 9999999999, "x"]
    ),
    r"leave one split empty": lambda a: (listed(a, IDS, ["cat/0"]), build(a)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_sentences(archive, message):
    with pytest.raises(UserError, match=message):
        MISTAKES[message](archive)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (["sample_id", "class_id"], ["dog/1", 2], r"line 2: training has no class_id 2.*2 classes"),
        (NUMBERED, ["dog/1", 1, "z"], r"line 2: training has no class_id 1 \(z\)"),
        (["sample_id", "class_name"], ["dog/1", "z"], r"line 2: training has no class 'z'"),
        (IDS, ["dog/1"], r"no column class_id or class_name, but training has"),
    ],
)
def test_validation_must_have_trainings_classes(archive, tmp_path, header, row, message):
    val = write_csv(tmp_path / "val.csv", header, row)
    with pytest.raises(UserError, match=message):
        build(archive, "val", val_manifest=val)


def test_members_that_cannot_be_unpacked(source, tmp_path):
    archive = zip_of(source, tmp_path / "pets.zip", compression=ZIP_BZIP2)
    with pytest.raises(UserError, match=r"member cat/\d\.png: it is packed by method 12; only"):
        build(archive)


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_header(archive):
    archive.with_suffix(".csv").write_text("\ufeffsample_id\r\ncat/0\r\n\r\ncat/1\r\n", "utf-8")
    assert sorted(
        keys_of(build(archive, val_fraction=0.5)) + keys_of(build(archive, "val", val_fraction=0.5))
    ) == ["cat/0", "cat/1"]
