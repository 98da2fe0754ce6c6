"""``latentsmith data``: what it prints, writes and refuses."""

import pytest
import torch
from PIL import Image

from helpers.images import class_folders, write_image
from latentsmith.cli import main
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.zip_csv import ZipCSVConfig

PREPARE = ["prepare", "digits", "--out", "x", "--resolution", "8"]
ZIP = [*PREPARE, "--format", "zip"]


@pytest.fixture
def data(capsys, tmp_path, monkeypatch):
    """Run ``latentsmith data WORDS``: (exit code, standard output, standard error)."""
    monkeypatch.setenv("LATENTSMITH_CACHE", str(tmp_path / "cache"))

    def run(*words):
        code = main(["data", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list_names_all_datasets_and_settings(data):
    code, out, _ = data("list")
    assert code == 0
    for word in ("fashion_mnist", "image_folder", "hf_dataset", "digits", "shapes", "train_count"):
        assert word in out


def test_fetch_says_where_the_data_came_from(data):
    code, out, _ = data("fetch", "digits", "val_fraction=0.5")
    assert code == 0
    assert "digits/train: 899 images from scikit-learn load_digits, digest " in out
    assert "digits/val: 898 images" in out


def test_inspect_prints_counts_and_writes_a_grid(data, tmp_path):
    root = class_folders(tmp_path / "pictures", 10)
    grid = tmp_path / "grid.png"
    code, out, _ = data("inspect", "image_folder", "--out", grid, f"folder={root}")
    assert code == 0
    assert "images         18" in out and "3 channel(s), 10 x 12 pixels" in out
    assert "classes        2" in out and "cat: " in out and str(root) in out
    with Image.open(grid) as picture:
        assert picture.size == (8 * 96, 3 * 96)


def test_inspect_check_names_unreadable_images_and_fails(data, tmp_path):
    root = class_folders(tmp_path / "pictures")
    (root / "cat" / "3.png").write_text("not an image")
    code, out, _ = data(
        "inspect", "image_folder", f"folder={root}", f"val_folder={root}", "--check"
    )
    assert code == 1 and "unreadable     1 of 10" in out and "cat/3.png" in out


def test_prepare_writes_a_folder_that_reads_back_and_resumes(data, tmp_path):
    root = class_folders(tmp_path / "pictures", 6)
    out_folder = tmp_path / "small"
    words = ["prepare", "image_folder", f"folder={root}", "--out", out_folder, "--resolution", "8"]
    code, out, _ = data(*words)
    assert code == 0 and "train: wrote 11, already there 0" in out
    train = ImageFolderConfig(folder=out_folder).build("train", tmp_path)
    assert len(train) == 11 and train.classes == ["cat", "dog"]
    assert train[0]["image"].shape == (3, 8, 8)
    train.files[4].unlink()
    code, out, _ = data(*words)
    assert code == 0 and "train: wrote 1, already there 10" in out
    assert train.files[4].is_file()


def test_prepare_keeps_captions(data, tmp_path):
    out_folder = tmp_path / "small"
    data(
        "prepare", "shapes", "train_count=4", "val_count=2", "--out", out_folder,
        "--resolution", "16",
    )  # fmt: skip
    train = ImageFolderConfig(folder=out_folder, captions=True).build("train", tmp_path)
    told = ShapesConfig(train_count=4).build("train", tmp_path).gather(torch.arange(4))
    assert {train[k]["caption"] for k in range(4)} == set(told["caption"])


def test_prepare_refuses_to_mix(data, tmp_path):
    words = ["prepare", "shapes", "val_count=2", "--out", tmp_path / "small", "--resolution", "16"]
    data(*words, "train_count=3")
    code, _, err = data(*words, "train_count=4")
    assert code == 2 and "holds a copy made from something else (digest: " in err
    write_image(tmp_path / "mine" / "train" / "holiday.png")
    code, _, err = data("prepare", "digits", "--out", tmp_path / "mine", "--resolution", "16")
    assert code == 2 and "is not empty and was not written by" in err


def test_prepare_reports_unreadable_images_and_goes_on(data, tmp_path):
    root = class_folders(tmp_path / "pictures", 6)
    (root / "cat" / "3.png").write_text("not an image")
    code, out, _ = data(
        "prepare", "image_folder", f"folder={root}", f"val_folder={root}",
        "--out", tmp_path / "small", "--resolution", "8",
    )  # fmt: skip
    assert code == 0 and "wrote 11, already there 0, unreadable 1" in out and "cat/3.png" in out


def test_prepare_zip_writes_what_zip_csv_reads_and_resumes(data, tmp_path):
    root, out_folder = class_folders(tmp_path / "pictures", 6), tmp_path / "small"
    words = [
        "prepare", "image_folder", f"folder={root}", "--format", "zip", "--out", out_folder,
        "--resolution", "8",
    ]  # fmt: skip
    code, out, _ = data(*words)
    assert code == 0
    assert "pictures/train: wrote 11, already there 0, unreadable 0" in out
    assert f"use it with: data=zip_csv data.archive={out_folder}" in out
    assert "pictures/train: wrote 0, already there 11, unreadable 0" in data(*words)[1]
    code, out, _ = data("inspect", "zip_csv", f"archive={out_folder}", "--check")
    assert code == 0 and "images         11" in out and "unreadable     0 of 11" in out
    assert "3 channel(s), 8 x 8 pixels" in out and "cat: " in out
    code, _, err = data(*words, "--images", "png")
    assert code == 2 and "format: zip of jpg there, zip of png now" in err


def test_prepare_takes_equally_many_of_each_class(data, tmp_path):
    root = class_folders(tmp_path / "pictures", 12)
    for form, options in (("zip", ["--images", "png"]), ("png", [])):
        words = ["--out", tmp_path / form, "--resolution", "8", "--format", form, *options]
        words += ["--count", "6", "--seed", "3"]
        code, out, _ = data("prepare", "image_folder", f"folder={root}", *words)
        assert code == 0 and "train: wrote 6, " in out and "val: wrote 2, " in out
    kept = ZipCSVConfig(archive=tmp_path / "zip").build("train", tmp_path)
    same = ImageFolderConfig(folder=tmp_path / "png").build("train", tmp_path)
    assert sorted(kept.labels) == [0, 0, 0, 1, 1, 1] == same.labels
    assert {kept[k]["image"].numpy().tobytes() for k in range(6)} == {
        same[k]["image"].numpy().tobytes() for k in range(6)
    }


def test_prepare_zip_names_unreadable_images_up_to_a_share(data, tmp_path):
    root = class_folders(tmp_path / "pictures", 30)
    for k in range(25):
        (root / "cat" / f"{k}.png").write_text("not an image")
    words = [
        "prepare", "image_folder", f"folder={root}", f"val_folder={root}", "--format", "zip",
        "--out", tmp_path / "small", "--resolution", "8",
    ]  # fmt: skip
    code, out, err = data(*words)
    assert code == 2 and not out and "25 of 60 images of image_folder:pictures/train" in err
    assert "above the share of 0.01 that --max-bad allows" in err and "… and 5 more" in err
    code, out, _ = data(*words, "--max-bad", "0.5")
    assert code == 0 and "train: wrote 0, already there 35, unreadable 25" in out
    assert "cat/1.png" in out and "… and 5 more, see " in out and "train.unreadable.csv" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch", "fashion_mist"], "no dataset 'fashion_mist'. Did you mean 'fashion_mnist'"),
        (["fetch", "digits", "sed=1"], "sed: no such setting here. Did you mean 'seed'?"),
        (["fetch", "digits", "seed=x"], "seed: should be a whole number (got 'x')"),
        (["fetch", "digits", "seed"], "settings are written key=value"),
        (["fetch", "image_folder"], "folder: required and not given; add folder=VALUE"),
        (["fetch", "image_folder", "folder=/nowhere"], "image folder /nowhere does not exist"),
        (["fetch", "shapes", "resolution=4"], "resolution: should be greater than or equal to 16"),
        (["prepare", "digits", "--out", "x", "--resolution", "0"], "is between 1 and 16,384"),
        ([*PREPARE, "--count", "0"], "--count 0: at least 1 image is needed"),
        ([*ZIP, "--max-bad", "5"], "--max-bad 5: a share is between 0 and 1 (0.01 is 1 %)"),
        ([*PREPARE, "--max-bad", "0.1"], "--max-bad belongs to --format zip; this is png"),
        ([*PREPARE, "--images", "jpg"], "--images belongs to --format zip; this is png"),
        (["inspect", "zip_csv", "archive=nowhere.zip"], "archive nowhere.zip does not exist"),
    ],
)
def test_mistakes_are_sentences(data, words, message):
    code, _, err = data(*words)
    assert code == 2 and message in err and "Traceback" not in err


def test_several_mistakes_are_told_at_once(data):
    code, _, err = data("fetch", "digits", "sed=1", "val_fraction=2")
    assert code == 2 and "sed: " in err and "val_fraction: " in err
