"""scikit-learn's digits."""

import torch
from sklearn.datasets import load_digits

from latentsmith.data.digits import DigitsConfig


def test_digits_are_scikit_learns(tmp_path):
    train = DigitsConfig().build("train", tmp_path)
    val = DigitsConfig().build("val", tmp_path)
    assert len(train) + len(val) == 1797 and len(val) == 359
    assert train.images.shape[1:] == (1, 8, 8) and train.images.max() == 255
    pixels, _ = load_digits(return_X_y=True)
    ours = torch.cat([train.images, val.images]).flatten(1).long().sum()
    theirs = torch.from_numpy(pixels).mul(255 / 16).round().long().sum()
    assert ours == theirs
