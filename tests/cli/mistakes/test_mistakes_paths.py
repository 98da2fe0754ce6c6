"""Paths that are not there, are something else, or may not be written."""

import os
from pathlib import Path

import pytest

from helpers.mistakes import Mistake, check, refused

MISTAKES = [
    Mistake(
        "images from nowhere",
        "data inspect image_folder folder=nowhere",
        "image folder nowhere does not exist",
    ),
    Mistake(
        "a file for a folder of images",
        "data inspect image_folder folder=notes.txt",
        "image folder notes.txt does not exist .or is no folder",
    ),
    Mistake(
        "a folder without images",
        "data inspect image_folder folder=empty",
        r"empty holds no images \(.bmp, .jpeg.*expected empty/CLASS/name.png",
    ),
    Mistake(
        "a run on images from nowhere",
        "run mmreg scale=smoke data=image_folder data.folder=nowhere",
        "image folder nowhere does not exist",
    ),
    Mistake(
        "a run on an empty folder",
        "run mmreg scale=smoke data=image_folder data.folder=empty --out deep/down/run",
        "empty holds no images",
    ),
    Mistake(
        "a run into a file",
        "run mmreg scale=smoke --out notes.txt",
        "notes.txt exists and is not a run folder. Give another with --out",
    ),
    Mistake(
        "a run below a file",
        "run mmreg scale=smoke --out notes.txt/run",
        "notes.txt/run: a file is in the place of a folder; give another path",
    ),
    Mistake(
        "a run among one's own files",
        "run mmreg scale=smoke --out mine",
        "mine exists and is not a run folder",
    ),
    Mistake(
        "a run with a name no file system takes",
        f"run mmreg scale=smoke --out {'x' * 300}",
        "its name is too long for the file system",
    ),
    Mistake(
        "a sweep into a file",
        "sweep mmreg scale=smoke seed=0,1 --out notes.txt",
        "--out notes.txt is a file, and the runs need a folder",
    ),
    Mistake(
        "a grid below a file",
        "data inspect image_folder folder=photos --out notes.txt/grid.png",
        "notes.txt: a file is in the place of a folder",
    ),
    Mistake(
        "a cache that is a file",
        "data inspect image_folder folder=photos --cache notes.txt",
        "notes.txt/digests: a file is in the place of a folder",
    ),
    Mistake(
        "a copy into a file",
        "data prepare image_folder folder=photos --out notes.txt --resolution 8",
        "notes.txt/train: a file is in the place of a folder",
    ),
    Mistake(
        "a copy in ZIPs into a file",
        "data prepare image_folder folder=photos --out notes.txt --resolution 8 --format zip",
        "notes.txt: a file is in the place of a folder",
    ),
    Mistake(
        "a copy into the folder that is copied",
        "data prepare image_folder folder=photos --out photos --resolution 8",
        r"--out photos is in the dataset's own folder \(folder=photos\): give one outside it",
    ),
    Mistake(
        "a copy below the folder that is copied",
        "data prepare image_folder folder=photos --out photos/small --resolution 8",
        "--out photos/small is in the dataset's own folder",
    ),
    Mistake(
        "a copy among one's own files",
        "data prepare image_folder folder=photos --out mine --resolution 8 --format zip",
        "mine is not empty and was not written by 'latentsmith data prepare",
    ),
    Mistake(
        "a store into a file",
        "cache vectors encoder=pixel_pca data=digits --out notes.txt",
        "notes.txt is a file, and a store is a folder",
    ),
    Mistake(
        "a store among one's own files",
        "cache vectors encoder=pixel_pca data=digits --out mine",
        r"mine is no store and not empty \(it holds thesis.txt\): give a new or empty folder",
    ),
    Mistake(
        "a converted store among one's own files",
        "cache convert vectors mine --to lmdb",
        r"mine is no store and not empty \(it holds thesis.txt\)",
    ),
    Mistake(
        "a store onto itself",
        "cache convert vectors vectors --to lmdb",
        "vectors is the store to convert: give another folder",
    ),
    Mistake("a store from nowhere", "cache inspect nowhere", "no store at nowhere: no such folder"),
    Mistake("a file for a store", "cache inspect notes.txt", "no store at notes.txt"),
    Mistake("a check of nothing", "cache verify nowhere", "no store at nowhere: no such folder"),
    Mistake(
        "texts from nowhere",
        "cache text text_encoder=minilm --texts gone.txt",
        "cannot read texts from gone.txt: .*No such file",
    ),
    Mistake(
        "a folder for texts",
        "cache text text_encoder=minilm --texts empty",
        "cannot read texts from empty: .*Is a directory",
    ),
    Mistake(
        "a report on nothing", "report nowhere", "nowhere is not a folder. Give the run folders"
    ),
    Mistake("a report on a file", "report notes.txt", "notes.txt is not a folder"),
    Mistake(
        "images of a generator from nowhere",
        "sample nowhere",
        "there is no folder nowhere. Give a run, or the folder of a generator",
    ),
    Mistake(
        "images of what is no generator",
        "sample empty",
        "empty holds no generator: it has no generator.json. Give a run",
    ),
    Mistake(
        "an export from nowhere", "export nowhere --out exported", "there is no folder nowhere"
    ),
    Mistake(
        "an export over one's own files",
        "export by_class --out mine",
        "mine exists and is not empty: give another folder with --out FOLDER",
    ),
    Mistake(
        "an export into a file", "export by_class --out notes.txt", "notes.txt is a file: give a"
    ),
    Mistake(
        "an export below a file",
        "export by_class --out notes.txt/exported",
        "notes.txt: a file is in the place of a folder",
    ),
    Mistake(
        "a variation of nothing",
        "variation by_class --image gone.png",
        "images: gone.png: no such file or folder",
    ),
    Mistake(
        "a variation of an empty folder",
        "variation by_class --image empty",
        "images: empty holds no images",
    ),
    Mistake(
        "a mask from nowhere",
        "inpaint by_class --image photos/00.png --mask gone.png",
        "mask: gone.png: no such file",
    ),
    Mistake(
        "points from nowhere",
        "encode fields --points gone.npz --out codes.npz",
        "there is no file gone.npz: give a .npz",
    ),
    Mistake(
        "a folder for points",
        "encode fields --points empty --out codes.npz",
        "empty: .*Is a directory",
    ),
    Mistake(
        "codes into a folder",
        "encode fields --points stations.npz --out empty",
        "empty: a folder is in the place of a file; give the path of a file",
    ),
    Mistake(
        "latents into a folder",
        "encode translator --texts texts.txt --out empty",
        "empty: a folder is in the place of a file",
    ),
    Mistake(
        "latents from nowhere",
        "invert translator --latents gone.npy",
        "there is no file gone.npy: give a .npy",
    ),
    Mistake(
        "a translator that is none",
        "infill empty --texts texts.txt",
        "empty holds no model of texts and latents: give a run",
    ),
    Mistake(
        "an autoencoder that is none",
        "decode empty --codes stations.npz --resolution 4 --out out.npz",
        "empty holds no autoencoder",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_paths(mistake, place, capsys):
    check(mistake, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(place, tmp_path, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    told = refused(["run", "mmreg", "scale=smoke", "--out", str(closed / "run")], capsys)
    assert "this user may not read or write it" in told


def test_a_mistake_leaves_neither_folder_nor_those_above_it(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(["run", "mmreg", "scale=smoke", "data=image_folder", "data.folder=x"], capsys)
    assert not Path("runs").exists()


def test_with_debug_the_traceback_is_shown(place):
    from latentsmith.cli import main

    with pytest.raises(OSError, match=r"notes\.txt"):
        main(["--debug", "export", "by_class", "--out", "notes.txt/exported"])
