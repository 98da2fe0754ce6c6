"""Archives and lists from anyone cannot reach files outside themselves, nor fill the memory."""

import json
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.images import write_image
from latentsmith.data.base import CorruptSample
from latentsmith.data.image_list.config import ImageListConfig
from latentsmith.data.memory import MemoryDataset
from latentsmith.data.prepare import prepare
from latentsmith.data.text.importer import ImportConfig, import_corpus
from latentsmith.data.transforms import TransformConfig
from latentsmith.data.zip_csv import members
from latentsmith.data.zip_csv.config import ZipCSVConfig
from latentsmith.errors import UserError
from latentsmith.utils.files import leads_out

ABOVE = ["../x.png", "a/../../x.png", "/etc/x.png", "//host/x.png", "./../x.png"]


@pytest.fixture
def secret(tmp_path):
    """An image beside the folder of the data."""
    return write_image(tmp_path / "x.png", value=7)


@pytest.fixture
def data(tmp_path, secret):
    """The folder of the data, with images of its own."""
    for k in range(4):
        write_image(tmp_path / "data" / f"{k}.png", value=k)
    return tmp_path / "data"


def archive(folder: Path, names: dict[str, bytes], **settings: str) -> ZipCSVConfig:
    """A ZIP with these members and a CSV that lists them all."""
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in names.items():
            opened.writestr(name, content)
    rows = "".join(f"{k},{name}\n" for k, name in enumerate(names))
    (folder / "a.csv").write_text("sample_id,file\n" + rows)
    return ZipCSVConfig(archive=folder / "a.zip", val_fraction=0.5)


@pytest.mark.parametrize("name", ABOVE)
def test_members_are_bytes_of_the_archive_whatever_they_are_called(data, tmp_path, name):
    """They are never unpacked to files: a name is only a name."""
    before = sorted(tmp_path.rglob("*"))
    own = (data / "0.png").read_bytes()
    config = archive(data, {name: own, "1.png": own})
    samples = [s for split in ("train", "val") for s in [config.build(split, tmp_path)[0]]]
    assert {sample["file"] for sample in samples} == {name, "1.png"}
    assert torch.equal(samples[0]["image"], samples[1]["image"])
    assert set(tmp_path.rglob("*")) == {*before, data / "a.zip", data / "a.csv"}


def test_a_copy_of_such_an_archive_stays_in_its_folder(data, tmp_path):
    own = (data / "0.png").read_bytes()
    config = archive(data, dict.fromkeys([*ABOVE, "1.png"], own))
    before = set(tmp_path.rglob("*"))
    copy = tmp_path / "copy" / "deep"
    prepare(config.build("train", tmp_path), TransformConfig(resolution=8), copy, "png")
    new = set(tmp_path.rglob("*")) - before - {tmp_path / "copy"}
    assert new and all(path == copy or copy in path.parents for path in new)


@pytest.mark.parametrize("label", ["..", ".", "../..", "/etc", ""])
def test_classes_are_folders_of_the_copy_whatever_they_are_called(tmp_path, label):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.int64)
    data = MemoryDataset(images, name="x/train", labels=labels, classes=[label])
    copy = tmp_path / "a" / "b" / "copy"
    prepare(data, TransformConfig(resolution=8), copy, "png")
    files = list(tmp_path.rglob("*.png"))
    assert len(files) == 2 and {file.parent.parent for file in files} == {copy}


def test_a_member_that_is_a_link(data, secret, tmp_path):
    """It is what it holds, a path as text: no image."""
    link = zipfile.ZipInfo("0.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(data / "a.zip", "w") as opened:
        opened.writestr(link, str(secret))
        opened.writestr("1.png", str(secret))
    (data / "a.csv").write_text("sample_id\n0\n1\n")
    dataset = ZipCSVConfig(archive=data / "a.zip", val_fraction=0.5).build("train", tmp_path)
    with pytest.raises(CorruptSample, match="cannot identify image file"):
        dataset[0]


@pytest.mark.parametrize("name", ABOVE)
def test_a_list_of_images_that_leads_out(data, secret, tmp_path, name):
    (data / "l.csv").write_text(f"image\n0.png\n{name}\n")
    config = ImageListConfig(file=data / "l.csv", val_fraction=0.5)
    with pytest.raises(UserError, match=r"line 3, image: .*x\.png lies outside"):
        config.build("train", tmp_path)


def test_an_edited_image_that_leads_out(data, secret, tmp_path):
    (data / "l.csv").write_text("image,target,instruction\n0.png,../x.png,make it red\n")
    with pytest.raises(UserError, match=r"line 2, target: \.\./x\.png lies outside"):
        ImageListConfig(file=data / "l.csv", val_fraction=0.5).build("train", tmp_path)


def test_a_list_of_latents_that_leads_out(data, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(4, np.float32))
    rows = [{"text": "a", "latent_path": "../x.npy"}]
    (data / "l.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"\.\./x\.npy lies outside"):
        import_corpus(ImportConfig(files=[data / "l.json"]), tmp_path, tmp_path)


def test_names_that_stay_inside():
    assert not any(map(leads_out, ["a.png", "a/b.png", "a/../b.png", "..a.png", "...", "a..b"]))
    assert all(map(leads_out, [*ABOVE, ".."]))


# Bombs ------------------------------------------------------------------------------------------


def test_a_member_of_a_terabyte(data, tmp_path, monkeypatch):
    config = archive(data, {"0.png": bytes(10_000), "1.png": b""})
    monkeypatch.setattr(members, "MOST_BYTES", 9_999)
    with pytest.raises(UserError, match=r"member 0\.png: it would unpack to .* which is no image"):
        config.build("train", tmp_path), config.build("val", tmp_path)


def test_a_member_that_lies_about_its_size(data, tmp_path, monkeypatch):
    """Ten megabytes in ten kilobytes, said to be ten bytes: unpacking ends after eleven."""
    archive(data, {"0.png": bytes(10_000_000)})
    raw = bytearray((data / "a.zip").read_bytes())
    place = raw.rindex(b"PK\1\2") + 24  # of the size in the directory
    raw[place : place + 4] = (10).to_bytes(4, "little")
    (data / "a.zip").write_bytes(raw)
    found = members.Members(data / "a.zip", members.list_members(data / "a.zip"))
    assert found.sizes.tolist() == [10]
    lengths = []
    real = members.zlib.crc32
    monkeypatch.setattr(members.zlib, "crc32", lambda b: lengths.append(len(b)) or real(b))
    with pytest.raises(CorruptSample, match="its bytes do not match its checksum"):
        found.read(0)
    assert not lengths or max(lengths) <= 11
