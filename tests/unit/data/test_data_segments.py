"""Classes of pixels of datasets that know them, and of parts of these."""

from pathlib import Path

import pytest
import torch

from latentsmith.data.digits import DigitsConfig
from latentsmith.data.segments import segment_names, segments_of
from latentsmith.data.shapes import ShapesConfig
from latentsmith.data.subset import draw, subset
from latentsmith.errors import UserError


def test_a_part_has_its_samples_classes():
    whole = ShapesConfig(resolution=16, train_count=50).build("train", Path())
    part = subset(draw(whole, 20), torch.tensor([7, 3]))
    rows = draw(whole, 20).indices[[7, 3]]  # type: ignore[attr-defined]
    found = segments_of(part, torch.tensor([1, 0]))
    assert torch.equal(found, whole.segments(rows.flip(0)))
    assert not torch.equal(found[0], found[1])
    assert segment_names(part) == segment_names(whole) == whole.segment_names


def test_other_data_is_refused_by_name(tmp_path):
    digits = DigitsConfig().build("val", tmp_path)
    for dataset in (digits, draw(digits, 5)):
        for ask in (segment_names, lambda d: segments_of(d, torch.arange(2))):
            with pytest.raises(
                UserError, match="digits/val does not know the class of every pixel"
            ):
                ask(dataset)
