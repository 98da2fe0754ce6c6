"""Datasets whose parts do not fit: folders, lists, archives, captions."""

import json
from pathlib import Path

import pytest

from helpers.images import write_image
from helpers.mistakes import Mistake, check, refused
from latentsmith.cli import main

FOLDERS = [
    Mistake("a dataset mistyped", "data inspect image_foldr", "Did you mean 'image_folder'"),
    Mistake("no folder given", "data inspect image_folder", "folder: required and not given"),
    Mistake(
        "classes only validation has",
        "data inspect image_folder folder=classes --split val",
        "classes/val has classes that training lacks: emu. Training has: cat, dog",
    ),
    Mistake(
        "classes only validation has, in a copy",
        "data prepare image_folder folder=classes --out copy --resolution 8",
        "has classes that training lacks: emu",
    ),
    Mistake(
        "classes in training alone",
        "data inspect image_folder folder=packed val_folder=photos --split val",
        "are laid out differently: training has class subfolders, it has none .labels=false",
    ),
    Mistake(
        "loose images beside classes",
        "data inspect image_folder folder=mixed",
        r"mixes loose images \(loose.png\) with class subfolders.*or set labels=false",
    ),
    Mistake(
        "a hub id without network",
        "data inspect hf_dataset path=nobody/nothing",
        "'nobody/nothing', split 'train', cannot be opened.*\n.*a hub id that can be reached",
    ),
    Mistake(
        "a folder for the hub's library that is not there",
        "data inspect hf_dataset path=./gone",
        "dataset folder gone does not exist",
    ),
    Mistake(
        "a column the hub's library does not find",
        "data inspect hf_dataset path=photos image=picture",
        r"no column 'picture' \(setting 'image'\). It has: image",
    ),
    Mistake(
        "captions of a dataset without any",
        "cache text text_encoder=minilm data=digits",
        "digits/train gives no captions: set data.captions=true",
    ),
    Mistake(
        "a template without a place for the class",
        "cache text text_encoder=minilm data=digits --template photo",
        "template 'photo' has no {}",
    ),
    Mistake(
        "a split there is not",
        "cache vectors encoder=pixel_pca data=digits split=test",
        "split: should be one of: train, val",
    ),
]


@pytest.mark.parametrize("mistake", FOLDERS, ids=str)
def test_folders(mistake, place, capsys):
    check(mistake, capsys)


# Lists ------------------------------------------------------------------------------------------

ROWS = [f"{k:02}.png,number {k}" for k in range(24)]


@pytest.fixture
def listed(place, tmp_path):
    """``listed(name, lines)``: words that inspect the list of that name beside 24 images."""
    for k in range(24):
        write_image(tmp_path / f"{k:02}.png", value=k)

    def write(name: str, lines: list[str], *words: str) -> list[str]:
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return ["data", "inspect", "image_list", f"file={tmp_path / name}", *words]

    return write


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("l.xlsx", ["image"], "told by its suffix, which must be .csv, .tsv"),
        ("l.csv", ["image,caption"], "has no rows"),
        ("l.csv", ["picture,words", "00.png,a"], "has no column of images. Tried: image, source"),
        ("l.csv", ["image,image", "00.png,01.png"], "several columns of one name: image"),
        ("l.csv", ["image,caption", "00.png"], "line 2: 1 fields, but the header has 2"),
        ("l.csv", ["image", *(f"{k}.jpg" for k in range(24))], "names 24 files that do not exist"),
        ("l.csv", ["image,caption", *["00.png,a"] * 24], "1 samples with val_fraction=0.1"),
        ("l.csv", ["image,split", "00.png,train", "01.png,tset"], "split 'tset' is none of train"),
        ("l.jsonl", ['{"image": "00.png"'], "line 1 is no JSON"),
        ("l.jsonl", ["[1]"], "line 1 holds list; each line must be one object"),
        ("l.csv", ["image,target", "00.png,01.png"], "no column for instruction"),
    ],
)
def test_lists(listed, capsys, name, lines, says):
    assert says in refused(listed(name, lines), capsys)


def test_a_list_that_is_not_there(place, capsys):
    told = refused(["data", "inspect", "image_list", "file=gone.csv"], capsys)
    assert "there is no list gone.csv" in told


@pytest.mark.parametrize("name", ["/etc/hostname", "../up.png", "a/../../up.png", "./../up.png"])
def test_a_list_that_leads_out_of_its_folder(listed, tmp_path, capsys, name):
    write_image(tmp_path.parent / "up.png")
    words = listed("l.csv", ["image,caption", *ROWS, f"{name},b"])
    told = refused(words, capsys)
    assert f"line 26, image: {name} lies outside {tmp_path}" in told
    assert "outside=true if you trust the list" in told
    if name == "../up.png":
        assert main([*words, "outside=true"]) == 0


# Archives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("sample_id,class_id", ["cat/0,0", "cat/0,0"], "in line 2 and again in line 3; ids must"),
        ("sample_id,class_id", ["cat/0,0", "cat/1,5"], "class ids go up to 5, but there is no"),
        ("sample_id,class_id", ["cat/0,one", "cat/1,0"], "'one' should be a whole number from 0"),
        ("sample_id,class_id,class_name", ["cat/0,0,a", "cat/1,0,b"], "class_id 0 is called 'b'"),
        ("sample_id", ["cat/0", "cow/0"], "has no image for 1 of 1 samples"),
        ("sample_id", ["cat/0", ""], "1 samples with val_fraction"),
        ("name", ["cat/0"], "has no column 'sample_id' in its first line. It has: name."),
        ("sample_id", [], "has a header and no rows"),
        ("sample_id,split", ["cat/0,train", "cat/1,eval"], "split 'eval' is none of train"),
    ],
)
def test_lists_of_archives(place, tmp_path, capsys, header, rows, says):
    (tmp_path / "l.csv").write_text("\n".join([header, *rows]) + "\n")
    words = ["archive=good.zip", f"manifest={tmp_path / 'l.csv'}", "val_fraction=0.5"]
    for split in ("train", "val"):  # the row may be in either
        with_split = ["data", "inspect", "zip_csv", *words, "--split", split]
        if main(with_split) == 2:
            assert says in refused(with_split, capsys)
            return
    raise AssertionError("accepted")


def test_archives_that_are_none(place, tmp_path, capsys):
    (tmp_path / "x.zip").write_text("no archive")
    (tmp_path / "x.csv").write_text("sample_id\n0\n")
    inspect = ["data", "inspect", "zip_csv"]
    told = refused([*inspect, f"archive={tmp_path / 'x.zip'}"], capsys)
    assert "x.zip cannot be read as ZIP" in told
    told = refused([*inspect, "archive=gone.zip"], capsys)
    assert "archive gone.zip does not exist" in told
    told = refused([*inspect, "archive=good.zip", "manifest=gone.csv"], capsys)
    assert "there is no gone.csv: a ZIP's samples are listed in a CSV" in told


# Captions ---------------------------------------------------------------------------------------

LONG = "a very long caption " * 20_000


@pytest.fixture
def captioned(place, tmp_path):
    """``captioned(bytes)``: words that inspect 24 images, each with that caption beside it."""

    def write(caption: bytes | None) -> list[str]:
        for k in range(24):
            write_image(tmp_path / "c" / f"{k:02}.png", value=k)
            if caption is not None:
                (tmp_path / f"c/{k:02}.txt").write_bytes(caption)
        return ["data", "inspect", "image_folder", f"folder={tmp_path / 'c'}", "captions=true"]

    return write


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("a red circle", "a red circle"),
        ("قطة حمراء على سجادة", "قطة حمراء على سجادة"),
        ("日本の猫 🙂 e\u0301", "日本の猫 🙂 e\u0301"),
        ("", '""'),
        ("two\nlines", "two lines"),
        (LONG, f"{LONG[:200]}… ({len(LONG.strip()):,} characters)"),
    ],
    ids=["plain", "right to left", "unicode", "empty", "two lines", "very long"],
)
def test_captions_that_work(captioned, capsys, caption, shown):
    assert main(captioned(caption.encode())) == 0
    assert f"first caption  {shown}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        (None, "caption .*00.txt is not there: each image needs its own, or set captions=false"),
        ("café".encode("latin-1"), "caption .*00.txt is not UTF-8 .*: save it so"),
    ],
    ids=["none", "of another encoding"],
)
def test_captions_that_do_not(captioned, capsys, caption, says):
    told = refused(captioned(caption), capsys)
    assert "none of the 22 samples" in told
    import re

    assert re.search(says, told)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n \n", "holds no texts: write one a line"),
        (b"caf\xe9\n", "cannot read texts from"),
        (b"red circle " * 5_000, "more than the 24 positions of tokens.length: 'red circle red"),
    ],
    ids=["empty", "of another encoding", "very long"],
)
def test_texts_for_a_translator(place, tmp_path, capsys, content, says):
    file, out = tmp_path / "t.txt", str(tmp_path / "z.npy")
    file.write_bytes(content)
    told = refused(["encode", "translator", "--texts", str(file), "--out", out], capsys)
    assert says in told and len(told) < 400
    assert not Path(out).exists()


def test_texts_from_right_to_left(place, tmp_path):
    file, out = tmp_path / "t.jsonl", tmp_path / "back.jsonl"
    file.write_text(json.dumps({"text": "قطة حمراء"}, ensure_ascii=False) + "\n", "utf-8")
    words = ["roundtrip", "translator", "--texts", str(file), "--out", str(out)]
    assert main(words) == 0
    assert json.loads(out.read_text("utf-8"))["text"] == "قطة حمراء"
