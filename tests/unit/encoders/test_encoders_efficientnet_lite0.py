"""Folding norms and paddings into the convolutions changes the speed, not the features."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latentsmith.encoders import efficientnet_lite0
from latentsmith.encoders.efficientnet_lite0 import EfficientNetLite0Config
from latentsmith.encoders.same_conv import SameConv2d


@pytest.mark.parametrize("resolution", [64, 96])
def test_folding_keeps_the_features(monkeypatch, resolution):
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    folded = EfficientNetLite0Config(resolution=resolution).build()
    for name in ("fold_batch_norms", "pad_within", "activate_in_place"):
        monkeypatch.setattr(efficientnet_lite0, name, lambda net: None)
    plain = EfficientNetLite0Config(resolution=resolution).build()
    scale = plain(images).pooled.abs().max()
    assert torch.allclose(folded(images).pooled, plain(images).pooled, atol=1e-4 * float(scale))
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.ZeroPad2d) for m in plain.modules())
    assert not any(isinstance(m, nn.ZeroPad2d) for m in folded.modules())
    shapes = [
        {n: p.shape for n, p in e.named_parameters() if "bn" not in n} for e in (plain, folded)
    ]
    assert shapes[0].items() <= shapes[1].items()  # the kernels stay as published


@pytest.mark.parametrize("side", [6, 7, 12, 13])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_padding_within_is_padding_the_input(side, stride, kernel):
    """Output and both gradients, against the convolution of a padded copy."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, kernel, stride, groups=2, dtype=torch.float64)
    x = torch.randn(2, 4, side, side + 1, dtype=torch.float64, requires_grad=True)
    pads: list[int] = []
    for length in (side + 1, side):  # F.pad begins with the last axis
        both = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        pads += [both // 2, both - both // 2]
    expected = conv(F.pad(x, pads))
    same = SameConv2d.of(conv)
    assert same.weight is conv.weight and same.bias is conv.bias
    out = same(x)
    assert out.shape[2:] == (-(-side // stride), -(-(side + 1) // stride))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(out)
    grads = [torch.autograd.grad((o * weights).sum(), [x, conv.weight]) for o in (out, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
