"""Image folders: layouts, splits, decoding, digests, errors."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import class_folders, write_image
from latentsmith.data.base import CorruptSample
from latentsmith.data.decode import decode_image
from latentsmith.data.image_folder import ImageFolderConfig
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError


def build(folder, split="train", cache=None, **settings):
    return ImageFolderConfig(folder=folder, **settings).build(split, cache or folder.parent / "c")


def test_class_folders_with_a_held_out_fraction(tmp_path):
    root = class_folders(tmp_path / "data", 10)
    train, val = build(root, val_fraction=0.25), build(root, "val", val_fraction=0.25)
    assert train.classes == ["cat", "dog"] == val.classes
    assert len(train) == 15 and len(val) == 5
    assert not set(train.files) & set(val.files)
    for dataset in (train, val):
        for k in range(len(dataset)):
            sample = dataset[k]
            assert sample["file"].startswith(dataset.classes[sample["label"]])
            assert sample["image"].shape == (3, 10, 12) and sample["image"].dtype == torch.uint8


def test_pixels_are_the_files(tmp_path):
    root = class_folders(tmp_path / "data")
    dataset = build(root)
    with Image.open(dataset.files[0]) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(dataset[0]["image"], expected)


def test_train_and_val_subfolders_are_the_splits(tmp_path):
    class_folders(tmp_path / "data" / "train", 4)
    class_folders(tmp_path / "data" / "val", 2, ("dog",))
    train, val = build(tmp_path / "data"), build(tmp_path / "data", "val")
    assert (len(train), len(val)) == (8, 2)
    assert val.classes == train.classes and val[0]["label"] == 1  # numbered as in training


def test_own_validation_folder(tmp_path):
    root = class_folders(tmp_path / "a")
    other = class_folders(tmp_path / "b", 3)
    assert len(build(root, "val", val_folder=other)) == 6
    assert len(build(root, "train", val_folder=other)) == 10


def test_flat_folder_has_no_labels(tmp_path):
    for k, suffix in enumerate(("png", "jpg", "webp", "JPEG")):
        write_image(tmp_path / "flat" / f"{k}.{suffix}")
    (tmp_path / "flat" / "notes.txt").write_text("not an image")
    (tmp_path / "flat" / ".hidden.png").write_text("not an image")
    dataset = build(tmp_path / "flat", val_fraction=0.25)
    assert len(dataset) == 3 and dataset.classes is None and "label" not in dataset[0]


def test_labels_false_takes_any_depth(tmp_path):
    root = class_folders(tmp_path / "data")
    write_image(root / "loose.png")
    dataset = build(root, labels=False)
    assert dataset.classes is None and len(dataset) == 10


def test_order_is_by_name_not_by_time_of_writing(tmp_path):
    for name in ("b", "a", "c", "B"):
        write_image(tmp_path / "data" / f"{name}.png")
    dataset = build(tmp_path / "data", val_folder=tmp_path / "data")
    assert [path.name for path in dataset.files] == ["B.png", "a.png", "b.png", "c.png"]


def test_counts_are_seeded_subsets_of_all_classes(tmp_path):
    root = class_folders(tmp_path / "data", 20)
    few = build(root, train_count=10, val_folder=root)
    assert len(few) == 10 and set(few.labels) == {0, 1}
    assert few.files == build(root, train_count=10, val_folder=root).files
    assert few.files != build(root, train_count=10, val_folder=root, seed=1).files


def test_captions_beside_the_images(tmp_path):
    path = write_image(tmp_path / "data" / "a.png")
    write_image(tmp_path / "data" / "b.png")
    path.with_suffix(".txt").write_text("a cat\n")
    dataset = build(tmp_path / "data", captions=True, val_folder=tmp_path / "data")
    assert dataset[0]["caption"] == "a cat"
    with pytest.raises(CorruptSample, match=r"b\.txt"):
        dataset[1]
    before = dataset.digest
    path.with_suffix(".txt").write_text("a dog")
    assert build(tmp_path / "data", captions=True, val_folder=tmp_path / "data").digest != before


def test_digest_sees_names_contents_and_mode(tmp_path):
    root = class_folders(tmp_path / "data")
    whole = {"val_folder": root}
    base = build(root, **whole).digest
    assert build(root, **whole).digest == base
    assert build(root, cache=tmp_path / "elsewhere", **whole).digest == base
    assert build(root, mode="gray", **whole).digest != base
    file = root / "cat" / "0.png"
    stat = file.stat()
    write_image(file, value=999)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = build(root, **whole).digest
    assert changed != base
    file.rename(root / "cat" / "zero.png")
    assert len({build(root, **whole).digest, changed, base}) == 3


def test_digest_is_remembered_and_survives_a_damaged_note(tmp_path, monkeypatch):
    root = class_folders(tmp_path / "data")
    base = build(root).digest
    read = []
    monkeypatch.setattr(
        "latentsmith.data.digests.file_digest", lambda path: read.append(path) or "same"
    )
    assert build(root).digest == base and not read
    for note in (tmp_path / "c" / "digests").iterdir():
        note.write_text("{ half")
    build(root).digest
    assert read


@pytest.mark.parametrize("kind", ["truncated", "text", "vanished"])
def test_unreadable_files_are_named_and_skipped(tmp_path, kind):
    root = class_folders(tmp_path / "data")
    dataset = build(root, val_folder=root)
    victim = root / "cat" / "2.png"
    if kind == "truncated":
        victim.write_bytes(victim.read_bytes()[:100])
    elif kind == "text":
        victim.write_text("<html>404</html>")
    else:
        victim.unlink()
    with pytest.raises(CorruptSample, match=r"cat/2\.png"):
        dataset[2]
    loader = Loader(
        dataset, TransformConfig(resolution=8).build(), batch_size=5, seed=0, shuffle=False
    )
    iterator = loader.iterate(0)
    assert next(iterator)["index"].tolist() == [0, 1, 3, 3, 4]
    iterator.close()
    assert "2.png" in loader.corrupt[2]


def test_errors_name_folder_and_layout(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        build(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no images.*expected.*CLASS/name\.png"):
        build(tmp_path / "empty")
    mixed = class_folders(tmp_path / "mixed")
    write_image(mixed / "loose.png")
    with pytest.raises(UserError, match=r"mixes loose images \(loose\.png\).*labels=false"):
        build(mixed)
    root, strange = class_folders(tmp_path / "a"), class_folders(tmp_path / "b", 1, ("bird",))
    with pytest.raises(UserError, match=r"classes that training lacks: bird.*cat, dog"):
        build(root, "val", val_folder=strange)
    write_image(tmp_path / "flat" / "a.png")
    with pytest.raises(UserError, match="laid out differently"):
        build(root, "val", val_folder=tmp_path / "flat")
    with pytest.raises(UserError, match="leave one split empty"):
        build(tmp_path / "flat")


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(values))
    assert decode_image(path, "gray", "x").flatten().tolist() == [0, 1, 128, 255]
    assert decode_image(path, "rgb", "x").shape == (3, 1, 4)


def test_transparency_is_laid_over_white(tmp_path):
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    pixels = decode_image(save(tmp_path / "a.png", clear), "rgb", "x")
    assert pixels[:, 0, 0].tolist() == [255, 0, 0] and pixels[:, 1, 1].tolist() == [255] * 3
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    path = save(tmp_path / "p.png", palette, transparency=0)
    assert decode_image(path, "rgb", "x")[:, 0, 0].tolist() == [255] * 3


def test_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    path = save(tmp_path / "photo.jpg", Image.new("RGB", (20, 10)), exif=exif)
    assert decode_image(path, "rgb", "x").shape == (3, 20, 10)


def test_pixels_without_a_range_are_refused(tmp_path):
    path = save(tmp_path / "float.tiff", Image.fromarray(np.zeros((2, 2), np.float32)))
    with pytest.raises(CorruptSample, match="no known range"):
        decode_image(path, "rgb", "float.tiff")
