"""The other side of editing data."""

from pathlib import Path

import torch

from latentsmith.data.digits import DigitsConfig
from latentsmith.data.edited import EditedImages, edited, has_edits
from latentsmith.data.memory import GatherDataset
from latentsmith.data.shapes.config import ShapesConfig
from latentsmith.data.subset import subset
from latentsmith.stores.texts import captions


def shapes(**settings):
    return ShapesConfig(resolution=16, train_count=8, edits=True, **settings).build("train", Path())


def test_target_and_instruction_take_the_place_of_image_and_caption():
    source = shapes()
    other = edited(source)
    assert isinstance(other, GatherDataset)
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
