"""Photographs of Debian's wallpapers: their sources, their small copies, their splits."""

import shutil
import subprocess

import pytest
import torch

from helpers.wallpapers import SIDE, small_wallpapers
from latentsmith.data import debian as apt
from latentsmith.data.base import DATASETS
from latentsmith.data.decode import decode_image
from latentsmith.data.transforms import resize
from latentsmith.data.wallpapers import WallpapersConfig, pictures, sources
from latentsmith.data.wallpapers.pictures import PACKAGES, PICTURES, held_out
from latentsmith.errors import UserError

SMALL = {"resolution": 16, "sizes": [SIDE, 45], "stride": 8}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Where six small pictures lie; no other source reaches out of the test."""
    monkeypatch.setattr(sources, "ROOT", tmp_path / "nothing installed")
    monkeypatch.setattr(apt.shutil, "which", lambda tool: None)
    small_wallpapers(tmp_path / "unpacked", monkeypatch)
    return tmp_path / "unpacked"


def build(split, cache, **settings):
    return WallpapersConfig(**(SMALL | settings)).build(split, cache)


def test_the_table_of_photographs():
    names = [picture.name for picture in PICTURES]
    assert len(set(names)) == len(names) == 26 and names == sorted(names)
    assert {picture.package for picture in PICTURES} == set(PACKAGES)
    assert all(len(picture.sha256) == 64 and picture.author for picture in PICTURES)
    free = {"CC BY 4.0", "CC BY-SA 4.0", "CC0 1.0", "GPL 2+"}
    assert {picture.licence for picture in PICTURES} == free
    assert [n for n in names if held_out(n)] == [
        "blinds", "free", "greenmeadow", "picosdeeuropa", "seeding", "wine",
    ]  # fmt: skip


def test_squares_are_cut_from_small_copies(root, tmp_path):
    train = build("train", tmp_path / "cache", folder=root)
    first = decode_image(root / pictures.PICTURES[0].path, "rgb", "a")
    assert first.shape == (3, 120, 80)
    small = resize(first, (SIDE, 40))
    assert torch.equal(train.images[0], small[:, :16, :16])
    assert torch.equal(train.images[1], small[:, :16, 8:24])
    # (60 - 16) / 8 + 1 = 6 along, 4 across, and of the smaller size 4 and 2
    assert len(train) == 5 * (6 * 4 + 4 * 2) and train.classes is None
    val = build("val", tmp_path / "cache", folder=root)
    assert len(val) == 3 * 2  # one photograph, of the first size alone, no overlap
    assert len(build("val", tmp_path / "cache", folder=root, val_stride=8)) == 6 * 4


def test_no_photograph_is_in_both_splits(root, monkeypatch, tmp_path):
    """Every picture has one color of its own."""

    def plain(picture, path):
        number = [p.name for p in pictures.PICTURES].index(picture.name)
        return torch.full((3, 40, SIDE), 40 * number, dtype=torch.uint8)

    monkeypatch.setattr(sources, "_small", plain)
    seen = {split: build(split, tmp_path / "cache", folder=root) for split in ("train", "val")}
    assert {name: set(d.images.flatten().tolist()) for name, d in seen.items()} == {
        "train": {0, 40, 80, 160, 200},
        "val": {120},
    }


def test_small_copies_are_made_once(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    made = build("train", cache, folder=root)
    monkeypatch.setattr(sources, "_small", None)
    again = build("train", cache, folder=root)
    assert again.digest == made.digest and "small copies kept in" in again.origin
    assert build("train", cache).digest == made.digest  # also where no folder is given


def test_a_damaged_copy_is_made_again(root, tmp_path):
    cache = tmp_path / "cache"
    made = build("train", cache, folder=root)
    (cache / "wallpapers" / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"a small copy in .* is damaged or missing"):
        build("train", cache)
    shutil.rmtree(cache)
    assert build("train", cache, folder=root).digest == made.digest


def test_installed_packages_are_found(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", root)
    train = build("train", tmp_path / "cache")
    assert train.origin.startswith(f"Debian packages {', '.join(PACKAGES)} (small copies")


def test_another_picture_is_refused(root, tmp_path):
    path = root / pictures.PICTURES[1].path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"b_by_Someone.jpg is another picture: its SHA-256 is"):
        build("train", tmp_path / "cache", folder=root)
    path.unlink()
    with pytest.raises(UserError, match=r"\(package mate-backgrounds\) cannot be read"):
        build("train", tmp_path / "cache", folder=root)
    assert not (tmp_path / "cache" / "wallpapers").exists()


def test_no_source_names_all_and_why(root, tmp_path):
    with pytest.raises(UserError) as caught:
        build("train", tmp_path / "cache")
    for piece in (
        "a given folder: none was given (data.folder=",
        "is not there yet",
        "(package lomiri-wallpapers-16.04) cannot be read",
        "no apt-get",
        "apt-get install lomiri-wallpapers-16.04 mate-backgrounds",
        "data=photos",
    ):
        assert piece in str(caught.value)


def test_packages_are_downloaded_and_unpacked(root, tmp_path, monkeypatch):
    """Real .deb files, made here; only the download is none."""
    monkeypatch.undo()
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    monkeypatch.setattr(sources, "ROOT", tmp_path / "nothing installed")
    small_wallpapers(root, monkeypatch)
    asked = []

    def download(package, work):
        asked.append(package)
        place = tmp_path / package
        for picture in pictures.PICTURES:
            if picture.package == package:
                (place / picture.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / picture.path, place / picture.path)
        (place / "DEBIAN").mkdir()
        control = f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: x\n"
        (place / "DEBIAN" / "control").write_text(control + "Description: small pictures\n")
        command = ["dpkg-deb", "-b", str(place), str(work / f"{package}_1_all.deb")]
        subprocess.run(command, check=True, capture_output=True)

    monkeypatch.setattr(apt, "_download", download)
    monkeypatch.setattr(apt.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    train = build("train", tmp_path / "cache")
    assert asked == list(PACKAGES) and "mate-backgrounds_1_all.deb, downloaded" in train.origin
    assert build("train", tmp_path / "elsewhere", folder=root).digest == train.digest
    build("val", tmp_path / "cache")
    assert asked == list(PACKAGES)  # kept: not downloaded twice


def test_squares_too_large_are_told(root, tmp_path):
    with pytest.raises(UserError, match=r"wallpaper a made 45 pixels long is 45 x 30.*of 32"):
        build("train", tmp_path / "cache", folder=root, resolution=32)


def test_it_is_registered():
    assert DATASETS["wallpapers"].config is WallpapersConfig
