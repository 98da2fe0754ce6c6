"""The other side of editing data."""

import logging
from pathlib import Path

import torch

from helpers.images import write_csv, write_image
from helpers.tiny_models import tiny_autoencoder
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.data.digits import DigitsConfig
from latentsmith.data.edited import EditedImages, edited, has_edits
from latentsmith.data.image_list import ImageListConfig
from latentsmith.data.memory import can_gather
from latentsmith.data.prepare import prepare
from latentsmith.data.prepare_zip import ZipSettings, prepare_zip
from latentsmith.data.shapes.config import ShapesConfig
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.stores.latents import cache_latents
from latentsmith.stores.source import StoreBatches
from latentsmith.stores.texts import captions


def shapes(**settings):
    return ShapesConfig(resolution=16, train_count=8, edits=True, **settings).build("train", Path())


def test_target_and_instruction_take_the_place_of_image_and_caption():
    source = shapes()
    other = edited(source)
    assert can_gather(other)
    whole = source.gather(torch.arange(8))
    batch = other.gather(torch.arange(8))
    assert torch.equal(batch["image"], whole["target"])
    assert batch["caption"] == whole["instruction"]
    one = EditedImages(source)[3]
    assert torch.equal(one["image"], whole["target"][3])
    assert one["caption"] == whole["instruction"][3]
    assert captions(other).unique[0] == whole["instruction"][0]
    assert other.classes is None


def test_a_subset_has_edits_too_and_digests_differ():
    source = shapes()
    few = subset(source, torch.tensor([5, 2]))
    assert has_edits(source) and has_edits(few)
    assert torch.equal(edited(few).gather(torch.tensor([1]))["image"][0], source[2]["target"])
    assert len({source.digest, edited(source).digest, edited(few).digest}) == 3
    assert edited(few).sample_keys() == ["5", "2"]


def test_other_data_have_none():
    assert not has_edits(ShapesConfig(resolution=16).build("train", Path()))
    assert not has_edits(DigitsConfig().build("train", Path()))


def test_latents_and_texts_of_edits_in_files_stay_together(tmp_path):
    """Source and target of other sizes, one of them unreadable: rows of both stores are pairs."""
    rows = []
    for k in range(9):
        write_image(tmp_path / f"{k}.png", value=k, size=(20 + k, 18))
        write_image(tmp_path / f"{k}b.png", value=50 + k, size=(24, 30 - k))
        rows.append([f"{k}.png", f"{k}b.png", f"do {k}", f"a {k}"])
    file = write_csv(tmp_path / "list.csv", ["image", "target", "instruction", "caption"], *rows)
    source = ImageListConfig(file=file, val_file=file).build("train", tmp_path / "cache")
    (tmp_path / "4b.png").write_text("<html>")
    few = subset(source, torch.arange(8, -1, -1))
    autoencoder = KLAutoencoderConfig(source=tiny_autoencoder(tmp_path / "ae")).build()
    transform = TransformConfig(resolution=16).build()
    stores = {
        name: cache_latents(autoencoder, side, transform, tmp_path / f"store{name}", what="mode")
        for name, side in (("", few), ("target", edited(few)))
    }
    numbers = torch.arange(9)
    batches = StoreBatches(stores, batch_size=16, seed=0, rows={"target": numbers}, shuffle=False)
    batch = next(batches.epoch())
    assert batch["index"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    told = captions(edited(few))
    assert [told.unique[told.of_sample[row]] for row in batch["index"]] == [
        f"do {k}" for k in (8, 7, 6, 5, 3, 2, 1, 0)
    ]
    for place, k in ((0, 8), (4, 3)):
        images = torch.stack([transform(source[k][key]) for key in ("image", "target")])
        with torch.no_grad():
            image, target = autoencoder.encode(images).mean
        torch.testing.assert_close(batch["latent"][place].float(), image, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(
            batch["target/latent"][place].float(), target, rtol=2e-3, atol=2e-3
        )


def test_a_copy_says_that_it_leaves_edits_out(tmp_path, caplog):
    small = TransformConfig(resolution=8)
    with caplog.at_level(logging.WARNING):
        prepare(shapes(), small, tmp_path / "folder", "png")
        prepare_zip({"train": shapes()}, ZipSettings(small), tmp_path / "zip")
    assert caplog.text.count("instructions are left out") == 2
    caplog.clear()
    plain = ShapesConfig(resolution=16, train_count=4).build("train", Path())
    prepare(plain, small, tmp_path / "plain", "png")
    assert not caplog.text
