"""Folding norms and paddings into the convolutions changes the speed, not the features."""

import pytest
import torch
from torch import nn

from latentsmith.encoders import efficientnet_lite0
from latentsmith.encoders.efficientnet_lite0 import EfficientNetLite0Config


@pytest.mark.parametrize("resolution", [64, 96])
def test_folding_keeps_the_features(monkeypatch, resolution):
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    folded = EfficientNetLite0Config(resolution=resolution).build()
    for name in ("fold_batch_norms", "fold_paddings"):
        monkeypatch.setattr(efficientnet_lite0, name, lambda net: None)
    plain = EfficientNetLite0Config(resolution=resolution).build()
    scale = plain(images).pooled.abs().max()
    assert torch.allclose(folded(images).pooled, plain(images).pooled, atol=1e-4 * float(scale))
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    paddings = [
        sum(isinstance(m, nn.ZeroPad2d) for m in encoder.modules()) for encoder in (plain, folded)
    ]
    assert paddings[1] < paddings[0] / 2  # those of stride 2 are not symmetric and stay
