"""Lists of images: formats, columns, splits, edits, digests, errors."""

import json
import logging
import os

import pytest
import torch

from helpers.images import write_csv, write_image
from latentsmith.data.base import CorruptSample
from latentsmith.data.edited import edited, has_edits
from latentsmith.data.image_list import ImageListConfig
from latentsmith.data.loader import Loader
from latentsmith.data.sample_ids import sample_ids
from latentsmith.data.settings import dataset_config
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.errors import UserError
from latentsmith.stores.texts import captions


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def build(file, split="train", **settings):
    return ImageListConfig(file=file, **settings).build(split, file.parent / "cache")


def everything(file, **settings):
    """All rows: training and validation are one list."""
    return build(file, val_file=file, **settings)


def images(root, n=4, **more):
    return [write_image(root / f"{k}.png", value=k, **more).name for k in range(n)]


@pytest.fixture
def triples(tmp_path):
    """Rows of edits; sources are 12 x 10, targets 20 x 24 pixels."""
    rows = []
    for k, name in enumerate(images(tmp_path, 10)):
        write_image(tmp_path / "after" / name, value=50 + k, size=(20, 24))
        rows.append(
            {
                "image": name,
                "target": f"after/{name}",
                "instruction": f"do {k}",
                "caption": f"a {k}",
            }
        )
    return rows


def test_edits_of_a_jsonl(tmp_path, triples):
    dataset = everything(jsonl(tmp_path / "edits.jsonl", *triples))
    assert len(dataset) == 10 and has_edits(dataset) and dataset.classes is None
    sample = dataset[3]
    assert sample["image"].shape == (3, 10, 12) and sample["target"].shape == (3, 24, 20)
    assert (sample["file"], sample["target_file"]) == ("3.png", "after/3.png")
    assert (sample["caption"], sample["instruction"]) == ("a 3", "do 3")
    assert "target_caption" not in sample
    assert dataset.sample_keys()[:2] == ["0.png", "1.png"]
    other = edited(subset(dataset, torch.tensor([5, 3])))
    assert torch.equal(other[1]["image"], sample["target"])
    assert other[1]["caption"] == other.caption(1) == "do 3"


def test_captions_and_instructions_are_told_without_decoding(tmp_path, triples, monkeypatch):
    dataset = subset(everything(jsonl(tmp_path / "edits.jsonl", *triples)), torch.tensor([5, 3]))
    monkeypatch.setattr("latentsmith.data.image_list.dataset.decode_image", None)
    assert captions(dataset).unique == ["a 5", "a 3", ""]
    assert captions(edited(dataset)).unique == ["do 5", "do 3", ""]


def test_images_of_different_sizes_become_one(tmp_path, triples):
    write_image(tmp_path / "0.png", size=(30, 9))
    dataset = everything(jsonl(tmp_path / "edits.jsonl", *triples))
    transform = TransformConfig(resolution=8).build()
    batch = next(Loader(dataset, transform, batch_size=10, seed=0, shuffle=False).epoch())
    assert batch["image"].shape == batch["target"].shape == (10, 3, 8, 8)
    assert torch.equal(batch["target"][4], transform(dataset[4]["target"]))
    side = next(Loader(edited(dataset), transform, batch_size=10, seed=0, shuffle=False).epoch())
    assert torch.equal(side["image"], batch["target"])


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_images_and_captions_of_a_table(tmp_path, suffix):
    names = images(tmp_path)
    path = tmp_path / f"list.{suffix}"
    rows = [["file_name", "text", "stars"], *([name, f" {name}, red ", 3] for name in names)]
    if suffix == "csv":
        write_csv(path, *rows)
    else:
        path.write_text("\n".join("\t".join(map(str, row)) for row in rows))
    dataset = everything(path)
    assert not has_edits(dataset) and set(dataset[0]) == {"image", "file", "caption"}
    assert captions(dataset).unique == ["0.png, red", "1.png, red", "2.png, red", "3.png, red", ""]


def test_images_alone_have_no_captions(tmp_path):
    dataset = everything(jsonl(tmp_path / "a.jsonl", *({"image": n} for n in images(tmp_path))))
    assert set(dataset[0]) == {"image", "file"}
    with pytest.raises(UserError, match="gives no captions"):
        captions(dataset)


@pytest.mark.parametrize(
    "names",
    [
        ("original_image", "edited_image", "edit_prompt", "original_prompt", "edited_prompt"),
        ("input_image", "edited_image", "edit_prompt", "original_prompt", "edited_prompt"),
        ("source_img", "target_img", "instruction", "caption", "target_caption"),
    ],
)
def test_names_that_others_use(tmp_path, triples, names):
    rows = [[*row.values(), f"b {k}"] for k, row in enumerate(triples)]
    sample = everything(write_csv(tmp_path / "a.csv", names, *rows))[2]
    assert (sample["caption"], sample["instruction"], sample["target_caption"]) == (
        "a 2", "do 2", "b 2"
    )  # fmt: skip
    assert sample["target_file"] == "after/2.png"


def test_columns_named_by_settings_and_half_used(tmp_path, triples):
    rows = [
        {"a": r["image"], "image": "no", "b": r["target"], "c": r["instruction"]} for r in triples
    ]
    file = jsonl(tmp_path / "own.jsonl", *rows)
    sample = everything(file, image="a", target="b", instruction="c")[1]
    assert sample["file"] == "1.png" and sample["instruction"] == "do 1"
    plain = everything(jsonl(tmp_path / "edits.jsonl", *triples), edits=False)
    assert set(plain[0]) == {"image", "file", "caption"} and plain.image_keys == ("image",)


def test_without_captions_edits_have_empty_ones_and_that_is_said_once(tmp_path, triples, caplog):
    for row in triples:
        del row["caption"]
    file = jsonl(tmp_path / "edits.jsonl", *triples)
    with caplog.at_level(logging.WARNING):
        train, val = build(file), build(file, "val")
    assert train[0]["caption"] == "" == val.caption(0) and captions(train).unique == [""]
    assert caplog.text.count("every caption is empty") == 1


def test_names_are_relative_to_the_list_or_to_root_or_lead_out_if_told(tmp_path, triples):
    (tmp_path / "lists").mkdir()
    file = jsonl(tmp_path / "lists" / "edits.jsonl", *triples)
    inside = everything(file, root=tmp_path)
    assert inside[0]["file"] == "0.png"
    for row in triples:
        row["image"] = str(tmp_path / row["image"])
        row["target"] = f"../{row['target']}"
    far = jsonl(tmp_path / "lists" / "far.jsonl", *triples)
    with pytest.raises(UserError, match="lies outside"):
        everything(far)
    outside = everything(far, outside=True)
    assert torch.equal(outside[0]["image"], inside[0]["image"])
    assert torch.equal(outside[0]["target"], inside[0]["target"])
    assert len(outside.digest) == 32


def test_values_of_a_jsonl(tmp_path):
    a, b, c, d = images(tmp_path)
    rows = [
        {"image": a, "caption": None},
        {"image": b, "caption": ["first", "second"]},
        {"image": c},
        {"image": d, "caption": "two\nlines\u2028and more", "box": [1, {"x": 2}]},
    ]
    file = jsonl(tmp_path / "a.jsonl", *rows)
    file.write_text("\ufeff\n" + file.read_text() + "\n")
    dataset = everything(file)
    told = [dataset.caption(k) for k in range(4)]
    assert told == ["", "first", "", "two\nlines\u2028and more"]


def test_a_column_split(tmp_path):
    names = images(tmp_path)
    rows = zip(names, ("train", "val", "test", "train"), strict=True)
    file = write_csv(tmp_path / "a.csv", ["image", "split"], *rows)
    train, val = build(file), build(file, "val")
    assert train.sample_keys() == ["0.png", "3.png"] and val.sample_keys() == ["1.png"]
    assert set(train[0]) == {"image", "file"}


def test_a_list_for_each_split(tmp_path):
    a, b, c, d = images(tmp_path)
    train = jsonl(tmp_path / "train.jsonl", *({"image": n, "text": n} for n in (a, b, c)))
    val = write_csv(tmp_path / "val.csv", ["image", "caption"], [d, "d"])
    assert len(build(train, val_file=val)) == 3
    assert build(train, "val", val_file=val)[0]["caption"] == "d"
    val = write_csv(tmp_path / "val.csv", ["image"], [d])
    with pytest.raises(
        UserError, match=r"train\.jsonl has a column for caption and .*val\.csv has"
    ):
        build(train, "val", val_file=val)


def test_all_edits_of_an_image_are_held_out_together(tmp_path, triples):
    again = [row | {"instruction": f"again {k}"} for k, row in enumerate(triples)]
    file = jsonl(tmp_path / "edits.jsonl", *triples, *again)
    splits = {split: build(file, split, val_fraction=0.3) for split in ("train", "val")}
    files = {s: [d[k]["file"] for k in range(len(d))] for s, d in splits.items()}
    assert (len(files["train"]), len(files["val"])) == (14, 6)
    assert not set(files["train"]) & set(files["val"])
    keys = [key for dataset in splits.values() for key in dataset.sample_keys()]
    assert len(set(keys)) == 20 and "1/0.png" in keys and "11/0.png" in keys
    ids = [one for own in sample_ids(splits).values() for one in own]
    assert len(set(ids)) == 20 and "11_0" in ids


def test_counts_are_seeded_subsets(tmp_path, triples):
    file = jsonl(tmp_path / "edits.jsonl", *triples)
    few = build(file, train_count=4)
    assert len(few) == 4 and few.sample_keys() == build(file, train_count=4).sample_keys()
    assert few[2]["instruction"] == f"do {few.sample_keys()[2][0]}"


def test_digest_sees_files_and_texts_and_nothing_else(tmp_path, triples):
    file = jsonl(tmp_path / "edits.jsonl", *triples)
    base = everything(file).digest
    extra = jsonl(tmp_path / "extra.jsonl", *(row | {"note": "x"} for row in triples))
    assert everything(file).digest == base == everything(extra).digest
    seen = {base, everything(file, mode="gray").digest, everything(file, edits=False).digest}
    for key in ("caption", "instruction"):
        changed = [triples[0] | {key: "other"}, *triples[1:]]
        seen.add(everything(jsonl(tmp_path / "b.jsonl", *changed)).digest)
    swapped = [
        triples[0] | {"target": triples[1]["target"]},
        triples[1] | {"target": triples[0]["target"]},
    ]
    seen.add(everything(jsonl(tmp_path / "b.jsonl", *swapped, *triples[2:])).digest)
    after = tmp_path / "after" / "3.png"
    stat = after.stat()
    write_image(after, value=999, size=(20, 24))
    os.utime(after, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    seen.add(everything(file).digest)
    assert len(seen) == 7


@pytest.mark.parametrize("victim", ["2.png", "after/2.png"])
@pytest.mark.parametrize("kind", ["truncated", "text", "vanished"])
def test_unreadable_files_are_named_and_skipped(tmp_path, triples, victim, kind):
    dataset = everything(jsonl(tmp_path / "edits.jsonl", *triples))
    path = tmp_path / victim
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "text":
        path.write_text("<html>404</html>")
    else:
        path.unlink()
    with pytest.raises(CorruptSample, match=str(path)):
        dataset[2]
    transform = TransformConfig(resolution=8).build()
    for data in (dataset, edited(dataset)):
        loader = Loader(data, transform, batch_size=4, seed=0)
        assert [n for b in loader.epoch() for n in b["index"].tolist()] == [0, 1, *range(3, 10)]
        assert str(path) in loader.corrupt[2]


def test_missing_files_are_counted_and_named_by_line(tmp_path):
    names = images(tmp_path)
    rows = [{"image": n, "target": n, "instruction": "x"} for n in names]
    rows[1]["target"] = rows[2]["target"] = "gone.png"
    rows[3]["image"] = "a long text that is no name at all, " * 20
    file = jsonl(tmp_path / "a.jsonl", *rows)
    for split in ("train", "val"):
        with pytest.raises(UserError, match=r"names 2 files that do not exist") as caught:
            build(file, split)
        assert f"line 2, target: {tmp_path / 'gone.png'}" in str(caught.value)
        assert "line 4, image: " in str(caught.value) and "root=FOLDER" in str(caught.value)
    many = jsonl(tmp_path / "b.jsonl", *({"image": f"x{k}.png"} for k in range(25)))
    with pytest.raises(UserError, match=r"names 25 files(?s:.*)and 15 more"):
        build(many)


@pytest.mark.parametrize("key", ["target", "instruction"])
def test_a_list_of_edits_has_one_in_every_row(tmp_path, triples, key):
    triples[4][key] = ""
    del triples[6][key]
    file = jsonl(tmp_path / "edits.jsonl", *triples)
    with pytest.raises(UserError, match=rf"2 of 10 rows have no {key} .*in line 5, 7.*edits=false"):
        build(file)
    assert len(everything(file, edits=False)) == 10


def test_errors_say_what_would_be_right(tmp_path, triples):
    def refused(match, file, **settings):
        with pytest.raises(UserError, match=match):
            build(file, **settings)

    refused(r"there is no list .*none\.csv", tmp_path / "none.csv")
    refused(r"suffix, which must be \.csv, \.tsv, \.jsonl", tmp_path / "a.parquet")
    file = tmp_path / "a.jsonl"
    refused("has no rows", jsonl(file))
    refused("has no rows", write_csv(tmp_path / "a.csv", ["image"]))
    refused(r"no column of images.*It has: picture.*image=COLUMN", jsonl(file, {"picture": "a"}))
    refused(r"1 of 1 rows have no image .*line 1", jsonl(file, {"image": ""}))
    file.write_text('{"image": "a"}\n{half\n')
    refused("line 2 is no JSON", file)
    file.write_text('["a.png"]\n')
    refused("line 1 holds list; each line must be one object", file)
    file.write_bytes(b"\xff\xfe")
    refused("cannot be read as UTF-8", file)
    refused(
        "several columns of one name: a", write_csv(tmp_path / "a.csv", ["image", "a", "a"], "xyz")
    )
    refused("line 3: 2 fields", write_csv(tmp_path / "a.csv", ["image"], ["x"], ["x", "y"]))
    edits = jsonl(tmp_path / "edits.jsonl", *triples)
    refused(r"no column 'captoin' \(setting 'caption'\).*'caption'", edits, caption="captoin")
    half = [{k: v for k, v in row.items() if k != "instruction"} for row in triples]
    refused(
        r"'target' for target but no column for instruction.*edit_prompt.*edits=false",
        jsonl(file, *half),
    )
    refused("leave one split empty", jsonl(file, triples[0]))
    refused(
        r"line 2: split 'x' is none of",
        write_csv(tmp_path / "a.csv", ["image", "split"], ["0.png", "x"]),
    )
    with pytest.raises(UserError, match="target=b names a column of edits, and edits is false"):
        dataset_config("image_list", ["file=a.csv", "edits=false", "target=b"])


def test_gray(tmp_path, triples):
    sample = everything(jsonl(tmp_path / "edits.jsonl", *triples), mode="gray")[0]
    assert sample["image"].shape == (1, 10, 12) and sample["target"].shape == (1, 24, 20)


def test_half_a_character_does_not_stop_anything(tmp_path):
    (name,) = images(tmp_path, 1)
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"image": name, "caption": "a \ud83d"}))
    assert captions(everything(file)).unique == ["a ?", ""]
