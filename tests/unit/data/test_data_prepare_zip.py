"""Preparing ZIPs: what is in them, what is refused, and that a kill costs nothing."""

import contextlib
import csv
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from zipfile import ZipFile

import lmdb
import pytest
import torch
from PIL import Image

from helpers.images import class_folders, write_image
from latentsmith.data import prepare_zip as module
from latentsmith.data.base import keys_of
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.prepare_zip import ZipSettings, prepare_zip
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.transforms import TransformConfig
from latentsmith.data.zip_csv import ZipCSVConfig
from latentsmith.data.zip_csv.growing import GrowingZip, journal_file, partial_file
from latentsmith.encoders.base import Encoder, EncoderOutput
from latentsmith.errors import UserError
from latentsmith.stores.build import build_store
from latentsmith.stores.features import token_contents
from latentsmith.utils.lock import Busy

SIDE = 16
CROP = TransformConfig(resolution=SIDE)


def folder(root, **settings):
    """An image folder, half of it for validation unless ``root`` has both splits."""
    config = ImageFolderConfig(folder=root, **{"val_fraction": 0.5, **settings})
    return {split: config.build(split, root.parent / "cache") for split in ("train", "val")}


def go(datasets, out, transform=CROP, **settings):
    return prepare_zip(datasets, ZipSettings(transform, **settings), out)


def back(out, split="train", **settings):
    return ZipCSVConfig(archive=out, **settings).build(split, out.parent / "cache")


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def everything(out):
    """Name → bytes of what a user sees."""
    return {p.name: p.read_bytes() for p in out.iterdir() if not p.name.startswith(".")}


@pytest.fixture
def pets(tmp_path):
    return folder(class_folders(tmp_path / "pets", 20))


# ---- what is written


def test_png_gives_the_transformed_images_back(tmp_path, pets):
    done = go(pets, tmp_path / "out", image="png")
    for split, data in pets.items():
        assert (done[split].written, done[split].kept, done[split].bad) == (20, 0, [])
        copy = back(tmp_path / "out", split)
        assert copy.classes == data.classes and copy.labels == data.labels
        assert keys_of(copy) == [
            path.relative_to(data.root).with_suffix("").as_posix().replace("/", "_")
            for path in data.files
        ]
        transform = CROP.build()
        for k in range(20):
            expected = transform(data[k]["image"]).mul(255).round().to(torch.uint8)
            assert torch.equal(copy[k]["image"], expected)


def test_jpeg_is_rgb_square_and_of_quality_95(tmp_path):
    grey = tmp_path / "in" / "x"
    grey.mkdir(parents=True)
    for k in range(4):
        Image.new("L", (60, 40), 40 * k).save(grey / f"{k}.png")
    go(folder(tmp_path / "in"), tmp_path / "out")
    with ZipFile(tmp_path / "out" / "train.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 2
        for info in archive.infolist():
            assert info.compress_type == 0 and info.filename.endswith(".jpg")
            with archive.open(info) as file, Image.open(file) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
                found = image.quantization
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "q.jpg", quality=95)
    with Image.open(tmp_path / "q.jpg") as known:
        assert found == known.quantization


def test_the_manifest(tmp_path, pets):
    go(pets, tmp_path / "out")
    table = rows(tmp_path / "out" / "val.csv")
    assert list(table[0]) == ["sample_id", "class_id", "class_name", "split", "width", "height"]
    for row in table:
        assert row["sample_id"].startswith(row["class_name"] + "_") and row["split"] == "val"
        assert row["class_id"] == str(["cat", "dog"].index(row["class_name"]))
        assert (row["width"], row["height"]) == ("12", "10")  # of the original
    assert set(everything(tmp_path / "out")) == {
        *(f"{split}.{end}" for split in ("train", "val") for end in ("zip", "csv", "json")),
        "classes.csv",
    }


def test_captions_and_missing_labels(tmp_path):
    shapes = {
        split: ShapesConfig(resolution=16, train_count=6, val_count=3).build(split, tmp_path)
        for split in ("train", "val")
    }
    go(shapes, tmp_path / "out")
    copy = back(tmp_path / "out")
    assert [copy.caption(k) for k in range(6)] == [shapes["train"][k]["caption"] for k in range(6)]
    assert keys_of(copy) == [f"train_{k}" for k in range(6)]
    images = torch.randint(256, (4, 1, 9, 9), dtype=torch.uint8)
    bare = {split: MemoryDataset(images, name=f"bare/{split}") for split in ("train", "val")}
    go(bare, tmp_path / "bare")
    assert list(rows(tmp_path / "bare" / "val.csv")[0]) == ["sample_id", "split", "width", "height"]
    assert back(tmp_path / "bare").classes is None


def test_classes_without_samples_keep_their_numbers(tmp_path):
    images, labels = torch.zeros(4, 3, 9, 9, dtype=torch.uint8), torch.tensor([0, 2, 2, 4])
    data = {
        split: MemoryDataset(images, labels, name=f"m/{split}", classes=list("abcde"))
        for split in ("train", "val")
    }
    go(data, tmp_path / "out")
    assert back(tmp_path / "out").classes == list("abcde")
    assert back(tmp_path / "out", "val").labels == [0, 2, 2, 4]


def test_a_prepared_copy_can_be_prepared_again_under_the_same_ids(tmp_path, pets):
    go(pets, tmp_path / "out", image="png")
    again = {split: back(tmp_path / "out", split) for split in ("train", "val")}
    go(again, tmp_path / "small", TransformConfig(resolution=8), image="png")
    assert keys_of(back(tmp_path / "small")) == keys_of(again["train"])


def test_count_is_balanced_seeded_and_only_for_training(tmp_path):
    root = tmp_path / "in"
    for split, many in (("train", 30), ("val", 4)):
        class_folders(root / split, many, ("a", "b", "c"))
    data = folder(root)
    done = go(data, tmp_path / "ten", count=10)
    assert (done["train"].written, done["val"].written) == (10, 12)
    ten = back(tmp_path / "ten")
    assert sorted(Counter(ten.labels).values()) == [3, 3, 4]
    go(data, tmp_path / "twenty", count=20)
    assert set(keys_of(ten)) < set(keys_of(back(tmp_path / "twenty"))), "ids do not move"
    go(data, tmp_path / "other", count=10, seed=1)
    assert set(keys_of(ten)) != set(keys_of(back(tmp_path / "other")))


class Bright(Encoder):
    """Two tokens that say how bright an image is."""

    name, dim, grid = "bright", 2, (1, 2)

    def __init__(self):
        super().__init__()
        self.freeze()

    def forward(self, images):
        mean = images.mean((1, 2, 3)).view(-1, 1, 1)
        tokens = torch.cat([mean, torch.ones_like(mean)], 2).repeat(1, 2, 1)
        return EncoderOutput(pooled=tokens[:, 0], tokens=tokens)

    def digest(self):
        return "0"

    def fingerprint(self):
        return {"kind": "bright", "weights": "0", "output": self.output}


def test_stores_call_samples_by_their_ids(tmp_path, pets):
    go(pets, tmp_path / "out")
    copy = back(tmp_path / "out")
    tokens = token_contents(Bright(), copy, CROP.build())
    assert tokens.keys == keys_of(copy)
    build_store(tmp_path / "store", tokens.manifest, tokens.keys, tokens.compute, backend="lmdb")
    with lmdb.open(str(tmp_path / "store"), readonly=True, lock=False) as env, env.begin() as txn:
        assert all(txn.get(f"{key}_mid".encode()) is not None for key in keys_of(copy))


# ---- unreadable images


@pytest.fixture
def damaged(tmp_path):
    """Three of 40 training images cannot be read."""
    root = class_folders(tmp_path / "pets", 20)
    for k in (3, 11, 12):
        (root / "cat" / f"{k}.png").write_text("not an image")
    return folder(root, val_folder=class_folders(tmp_path / "val", 2))


def test_unreadable_images_are_listed_and_left_out(tmp_path, damaged):
    done = go(damaged, tmp_path / "out", max_bad=0.1)["train"]
    assert (done.written, len(done.bad)) == (37, 3)
    listed = rows(tmp_path / "out" / "train.unreadable.csv")
    bad = ["train_cat_11", "train_cat_12", "train_cat_3"]
    assert [row["sample_id"] for row in listed] == bad
    for row, told in zip(listed, done.bad, strict=True):
        assert f"cat/{row['sample_id'].split('_')[-1]}.png: cannot identify" in row["reason"]
        assert told == f"{row['sample_id']}: {row['reason']}"
    copy = back(tmp_path / "out")
    assert len(copy) == 37 and set(bad).isdisjoint(keys_of(copy))
    assert all(copy[k]["image"].shape == (3, SIDE, SIDE) for k in range(37))
    assert not (tmp_path / "out" / "val.unreadable.csv").exists()
    again = go(damaged, tmp_path / "out", max_bad=0.1)["train"]
    assert (again.written, again.kept, again.bad) == (0, 37, done.bad)


@pytest.mark.parametrize("commit", [4, 1000])
def test_past_a_share_they_are_an_error(tmp_path, damaged, monkeypatch, commit):
    monkeypatch.setattr(module, "COMMIT_SAMPLES", commit)
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(UserError, match=r"of 40 images of .*/train cannot be read.*--max-bad"):
            go(damaged, out, max_bad=0.02)
    assert not (out / "train.zip").exists()
    assert {1, 3} >= {len(rows(out / "train.unreadable.csv"))}
    done = go(damaged, out, max_bad=0.075)  # exactly the share
    assert len(done["train"].bad) == 3 == len(rows(out / "train.unreadable.csv"))
    with pytest.raises(UserError, match="3 of 40 images"):  # what is finished is held to it too
        go(damaged, out, max_bad=0.05)


def test_nothing_readable(tmp_path, damaged):
    for file in damaged["train"].files:
        file.write_text("no")
    with pytest.raises(UserError, match="no image can be read"):
        go(damaged, tmp_path / "out", max_bad=1)


# ---- other data, other settings, other files


def test_the_same_again_does_nothing(tmp_path, pets, monkeypatch):
    go(pets, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir() if p.suffix != ".lock"}
    monkeypatch.setattr(module._Job, "_encode", None)
    done = go(pets, tmp_path / "out")
    assert [(d.written, d.kept) for d in done.values()] == [(0, 20), (0, 20)]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_journal_left_by_a_kill_after_the_end_is_removed(tmp_path, pets):
    go(pets, tmp_path / "out")
    journal_file(tmp_path / "out" / "train.zip").write_text("{}\n")
    go(pets, tmp_path / "out")
    assert not journal_file(tmp_path / "out" / "train.zip").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "png"}, "format: zip of jpg there, zip of png now"),
        ({"count": 5}, "count: None there, 5 now; seed: None there, 0 now"),
        ({"transform": TransformConfig(resolution=8)}, "'resolution': 16.* there, .*: 8"),
    ],
)
def test_other_settings_are_refused(tmp_path, pets, change, message):
    go(pets, tmp_path / "out")
    with pytest.raises(UserError, match=rf"out holds a copy of train images made .*{message}"):
        go(pets, tmp_path / "out", **change)


def test_all_is_refused_after_a_part_and_other_data(tmp_path, pets):
    go(pets, tmp_path / "out", count=5)
    with pytest.raises(UserError, match="count: 5 there, None now; seed: 0 there, None now"):
        go(pets, tmp_path / "out")
    write_image(tmp_path / "pets" / "cat" / "new.png", value=77)
    with pytest.raises(UserError, match=r"digest: .* there, .* now"):
        go(folder(tmp_path / "pets"), tmp_path / "out", count=5)


def test_folders_of_others_are_left_alone(tmp_path, pets):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.zip").write_text("mine")
    with pytest.raises(UserError, match="is not empty and was not written by"):
        go(pets, tmp_path / "out")
    assert everything(tmp_path / "out") == {"train.zip": b"mine"}


def test_one_writer_at_a_time(tmp_path, pets):
    code = (
        "import sys, pathlib; from latentsmith.utils.lock import Lock\n"
        "Lock.take(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "out").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out" / module.LOCK],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(Busy, match="is being written by process"):
        go(pets, tmp_path / "out")
    holder.communicate()
    assert go(pets, tmp_path / "out")


# ---- stopped in the middle


@pytest.fixture
def reference(tmp_path, pets):
    go(pets, tmp_path / "reference")
    return everything(tmp_path / "reference")


@pytest.mark.parametrize("call", range(1, 16))
def test_a_disk_that_fills_up_is_told_and_it_goes_on(tmp_path, pets, reference, monkeypatch, call):
    """Every fsync in turn fails as on a full disk."""
    monkeypatch.setattr(module, "COMMIT_SAMPLES", 6)
    fsync, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk of .* is full .*run the same command again"):
        go(pets, tmp_path / "out")
    go(pets, tmp_path / "out")
    assert everything(tmp_path / "out") == reference


def test_room_is_looked_at_once_sizes_are_known(tmp_path, pets, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_SAMPLES", 6)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9e9, 9e9, 9000))
    for left in (14, 14):  # the first stop is after six; then before anything is decoded
        with pytest.raises(UserError, match=rf"are needed .* for {left} more images of about"):
            go(pets, tmp_path / "out")
    monkeypatch.undo()
    assert go(pets, tmp_path / "out")["train"].kept == 6


def test_large_images_are_committed_by_their_size(tmp_path, pets, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_BYTES", 4000)
    sizes = []
    append = GrowingZip.append
    monkeypatch.setattr(
        GrowingZip, "append", lambda self, n, c: sizes.append(len(n)) or append(self, n, c)
    )
    go(pets, tmp_path / "out")
    assert sum(sizes) == 40 and 2 < max(sizes) < 10


# Samples are read slowly enough for a kill to fall anywhere; each is logged first.
WRITER = """
import os, sys, time
from pathlib import Path
from latentsmith.data import prepare_zip as module
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.transforms import TransformConfig
module.COMMIT_SAMPLES = 4
root, out, log = map(Path, sys.argv[1:])
class Slow:
    def __init__(self, data):
        self.data = data
        self.__dict__ |= {k: getattr(data, k) for k in ("name", "classes", "origin", "digest")}
        self.sample_keys = data.sample_keys
    def __len__(self):
        return len(self.data)
    def __getitem__(self, index):
        time.sleep(0.004)
        with log.open("a") as file:
            file.write(f"{self.name} {index}\\n")
        return self.data[index]
config = ImageFolderConfig(folder=root, val_fraction=0.5)
pid = 0
while pid == 0 or os.waitpid(pid, 0)[1] != 0:
    # children are killed, for starting Python costs seconds; torch is imported once
    pid = os.fork()
    if pid == 0:
        print("go", flush=True)
        print(os.getpid(), flush=True)
        data = {s: Slow(config.build(s, root.parent / "cache")) for s in ("train", "val")}
        settings = module.ZipSettings(TransformConfig(resolution=16), max_bad=0.5)
        module.prepare_zip(data, settings, out)
        os._exit(0)
"""


def committed(out: Path, split: str) -> int:
    """Samples of a split that are safe."""
    if (out / f"{split}.zip").exists():
        return 20
    with contextlib.suppress(FileNotFoundError):
        return journal_file(out / f"{split}.zip").read_bytes().count(b"\n")
    return 0


def test_killed_at_random_points_nothing_is_lost_or_made_twice(tmp_path, pets):
    pets["train"].files[7].write_text("not an image")
    go(pets, tmp_path / "reference", max_bad=0.5)
    out, log = tmp_path / "out", tmp_path / "log"
    log.touch()
    parent = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "pets", out, log],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    rng, kills, seen = random.Random(0), 0, []
    for line in parent.stdout:
        if line.strip() != "go":
            continue
        child = int(parent.stdout.readline())
        before = {split: committed(out, split) for split in ("train", "val")}
        seen.append((before, len(log.read_text().splitlines())))
        for split in ("train", "val"):  # a ZIP that has its name is finished
            if (out / f"{split}.zip").exists():
                with ZipFile(out / f"{split}.zip") as archive:
                    assert archive.testzip() is None
        if kills < 12:
            goal = sum(before.values()) + 4 * rng.randint(0, 2)
            with contextlib.suppress(ProcessLookupError):
                while committed(out, "train") + committed(out, "val") < goal:
                    os.kill(child, 0)
                    time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.02))
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(child, signal.SIGKILL)
            kills += 1
    assert parent.wait(60) == 0
    lines = [line.rsplit(" ", 1) for line in log.read_text().splitlines()]
    for before, begun in seen:
        for name, index in lines[begun:]:
            assert int(index) >= before[name.rsplit("/")[-1]], "a committed sample was read again"
    assert len({sum(before.values()) for before, _ in seen} - {0, 40}) > 2, "no kill in the middle"
    assert everything(out) == everything(tmp_path / "reference")
    assert not list(out.glob(".*.tmp")), "what killed writers left behind was removed"
    assert not partial_file(out / "train.zip").exists()
