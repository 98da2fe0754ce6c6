"""Bytes that changed, files that were cut: found, and the file named; never a wrong value."""

import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_training import assert_same_run, toy_fit

from faults.damage import DAMAGES, damage_lmdb, damage_shards
from faults.writing import FEW, UNREADABLE
from helpers.images import class_folders, zip_of
from helpers.stores import computing, keys_of, manifest_of, table, write
from latentsmith.data.base import CorruptSample
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.zip_csv import ZipCSVConfig
from latentsmith.errors import UserError
from latentsmith.stores.base import open_store
from latentsmith.stores.build import build_store
from latentsmith.stores.joined import Joined
from latentsmith.training import checkpoint


@pytest.mark.parametrize("damage", DAMAGES)
def test_shards(tmp_path, damage):
    found = damage_shards(tmp_path, damage, count=60)
    print(f"\nshards, {damage}: {dict(found)}")
    assert found["found"] > 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_lmdb(nursery, tmp_path, damage):
    found = damage_lmdb(nursery, tmp_path, damage, count=16)
    print(f"\nlmdb, {damage}: {dict(found)}")
    assert found["found"] > {"flipped": 0, "cut": 8}[damage]


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoints(tmp_path, damage, capsys):
    """Any file of the newest one: named, passed over, and the training comes to the same end."""
    toy_fit("denoiser", tmp_path / "whole")
    rng = random.Random(2)
    for n in range(12):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / f"s-{n}"))
        newest = checkpoint.listed(folder / "checkpoints")[-1]
        file = rng.choice(sorted(newest.iterdir()))
        raw = file.read_bytes()
        file.write_bytes(DAMAGES[damage](raw, rng))
        capsys.readouterr()
        toy_fit("denoiser", folder)
        said = capsys.readouterr().err
        changed = checkpoint_text(raw) != checkpoint_text(file.read_bytes())
        assert not changed or f"CORRUPT CHECKPOINT: {file} " in said, said
        assert_same_run(tmp_path / "whole", folder)


def checkpoint_text(raw: bytes) -> bytes:
    """What counts in a file: blanks of JSON do not."""
    return raw.replace(b" ", b"").replace(b"\n", b"") if raw[:1] == b"{" else raw


def photos(root: Path) -> Path:
    """ROOT/CLASS/k.jpg of noise."""
    rng = np.random.default_rng(0)
    for name in ("cat/0", "cat/1", "cat/2", "dog/0", "dog/1", "dog/2"):
        file = root / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file)
    return root


@pytest.mark.parametrize("damage", DAMAGES)
def test_jpegs(tmp_path, damage, caplog):
    """One that cannot be decoded is named; one that can be is other data, and named as changed."""
    root = photos(tmp_path / "pets")
    config = ImageFolderConfig(folder=root, val_fraction=0.3)
    data = config.build("train", tmp_path / "cache")
    digest, rng, found = data.digest, random.Random(3), Counter()
    for _ in range(20):
        index = rng.randrange(len(data))
        file, raw = data.files[index], data.files[index].read_bytes()
        file.write_bytes(DAMAGES[damage](raw, rng))
        try:
            data[index]
            found["decodes"] += 1
        except CorruptSample as error:
            assert str(file) in str(error)
            found["refused"] += 1
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert config.build("train", tmp_path / "cache").digest != digest
        name = file.relative_to(root).as_posix()
        assert (
            f"1 of {len(data)} files of {root} have changed since they were last read: {name}"
            in (caplog.text)
        )
        file.write_bytes(raw)
        assert config.build("train", tmp_path / "cache").digest == digest
    print(f"\njpeg, {damage}: {dict(found)}")


@pytest.mark.parametrize("damage", DAMAGES)
def test_zips(tmp_path, damage):
    """The archive, or the member, is named; or every member is what it was."""
    archive = zip_of(class_folders(tmp_path / "source"), tmp_path / "pets.zip")
    build = ZipCSVConfig(archive=archive).build
    good = [row["image"] for row in everything(build("train", tmp_path / "cache"))]
    raw, rng, found = archive.read_bytes(), random.Random(4), Counter()
    for _ in range(60):
        archive.write_bytes(DAMAGES[damage](raw, rng))
        try:
            now = [row["image"] for row in everything(build("train", tmp_path / "cache"))]
            assert len(now) == len(good) and all(map(torch.equal, now, good))
            found["harmless"] += 1
        except UserError as error:  # CorruptSample is one
            assert str(archive) in str(error)
            found["found"] += 1
    print(f"\nzip, {damage}: {dict(found)}")
    assert found["found"] > 30


def everything(data):
    return [data[index] for index in range(len(data))]


def test_a_sample_that_one_of_two_stores_lacks(tmp_path):
    """Never computed: the store is named that lacks it. Unreadable there: left out of both."""
    first = write(tmp_path / "a", {"vector": table(FEW)["vector"]}, unreadable=UNREADABLE)
    other = write(tmp_path / "b", {"label": table(FEW)["label"]}, unreadable={2: "gone"})
    joined = Joined({"": first, "other": other})
    assert joined.readable.tolist() == [0, 1, 3, 4, 5, 6]
    few = {"label": (torch.arange(FEW - 1), "int64")}
    lacking = manifest_of(few)
    lacking.source["count"] = FEW
    keys = keys_of(FEW)
    assert build_store(tmp_path / "c", lacking, keys[:-1], computing(few))
    with pytest.raises(UserError) as told:
        Joined({"": first, "other": open_store(tmp_path / "c")})
    assert keys[-1] in str(told.value) and str(tmp_path / "c") in str(told.value)
