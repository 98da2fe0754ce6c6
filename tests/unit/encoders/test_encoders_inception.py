"""FID's Inception: only the published file, its layout, TensorFlow's resize and pools.

With equal weights the network's features and the resize agree with torch-fidelity 0.4's to 1e-5
(checked by hand: it cannot be imported without torchvision).
"""

import hashlib

import pytest
import torch
import torch.nn.functional as F

from helpers.tiny_models import random_inception
from latentsmith.encoders import inception
from latentsmith.encoders.inception import Inception, InceptionConfig, InceptionV3, tf_bilinear
from latentsmith.errors import UserError

STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
BRANCHES = {
    "5b 5c 5d": "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 "
    "branch_pool",
    "6a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "6b 6c 6d 6e": "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 "
    "branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5 branch_pool",
    "7a": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    "7b 7c": "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 "
    "branch3x3dbl_3a branch3x3dbl_3b branch_pool",
}


@pytest.fixture(scope="module")
def net() -> InceptionV3:
    return random_inception()


def test_state_dict_is_laid_out_as_the_published_file(net):
    convolutions = [*STEM]
    for blocks, branches in BRANCHES.items():
        convolutions += [f"Mixed_{b}.{name}" for b in blocks.split() for name in branches.split()]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{name}.conv.weight" for name in convolutions}
    expected |= {f"{name}.bn.{part}" for name in convolutions for part in norm}
    state = net.state_dict()
    assert set(state) == expected | {"fc.weight", "fc.bias"}
    assert len(convolutions) == 94
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6b.branch7x7dbl_4.conv.weight": (128, 128, 7, 1),
        "Mixed_6e.branch7x7_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch1x1.conv.weight": (320, 2048, 1, 1),
        "fc.weight": (1008, 2048),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert sum(p.numel() for p in net.parameters()) == 23_850_960


@torch.no_grad()
def test_sizes_through_the_network(net):
    sizes = {}
    hooks = [
        block.register_forward_hook(lambda _, __, y, name=name: sizes.update({name: y.shape[1:]}))
        for name, block in net.named_children()
        if name != "fc"
    ]
    assert net(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)
    for hook in hooks:
        hook.remove()
    wanted = {"Conv2d_1a_3x3": (32, 149, 149), "Conv2d_2b_3x3": (64, 147, 147),
              "Conv2d_4a_3x3": (192, 71, 71), "Mixed_5b": (256, 35, 35), "Mixed_5d": (288, 35, 35),
              "Mixed_6a": (768, 17, 17), "Mixed_6e": (768, 17, 17), "Mixed_7a": (1280, 8, 8),
              "Mixed_7c": (2048, 8, 8)}  # fmt: skip
    assert {name: tuple(sizes[name]) for name in wanted} == wanted


@torch.no_grad()
def test_pools_are_tensorflows(net):
    """Averages without the padding, except the last block, which takes the maximum."""
    x = torch.randn(1, 1280, 8, 8)
    without = (
        F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)
        * 9
        / F.avg_pool2d(F.pad(torch.ones(1, 1, 8, 8), (1, 1, 1, 1)), 3, 1, divisor_override=1)
    )
    torch.testing.assert_close(
        net.Mixed_7b(x)[:, -192:], net.Mixed_7b.branch_pool(without), rtol=1e-4, atol=1e-4
    )
    x = torch.randn(1, 2048, 8, 8)
    highest = F.unfold(F.pad(x, (1, 1, 1, 1), value=-1e9), 3).view(1, 2048, 9, 8, 8).amax(2)
    torch.testing.assert_close(net.Mixed_7c(x)[:, -192:], net.Mixed_7c.branch_pool(highest))


def naive_tf_bilinear(image: torch.Tensor, side: int) -> torch.Tensor:
    """One pixel at a time, [H, W] → [side, side]."""
    height, width = image.shape
    out = torch.zeros(side, side)
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = y - top, x - left
            out[i, j] = (1 - a) * ((1 - b) * image[top, left] + b * image[top, right]) + a * (
                (1 - b) * image[bottom, left] + b * image[bottom, right]
            )
    return out


@pytest.mark.parametrize("shape", [(5, 7), (11, 11), (20, 3), (13, 40)])
def test_tf_bilinear_is_the_loop(shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = tf_bilinear(image[None, None], 11)[0, 0]
    torch.testing.assert_close(found, naive_tf_bilinear(image, 11), rtol=1e-5, atol=1e-5)
    if shape == (11, 11):
        assert torch.equal(found, image)


def test_what_the_network_sees(net):
    encoder = Inception(net, digest="x", config=InceptionConfig())
    same = torch.full((1, 1, 299, 299), 128.4 / 255)
    assert encoder.preprocess(same).unique().tolist() == [0.0]  # 8 bits, then (x - 128) / 128
    ends = encoder.preprocess(torch.tensor([-1.0, 0, 1, 2]).view(4, 1, 1, 1))
    assert ends[:, 0, 0, 0].tolist() == [-1, -1, 127 / 128, 127 / 128]
    image = (torch.rand(1, 3, 40, 30) * 255).round()
    expected = (tf_bilinear(image, 299) - 128) / 128
    torch.testing.assert_close(encoder.preprocess(image / 255), expected)


def test_the_clean_resize_is_pils(net):
    import numpy as np
    from PIL import Image

    encoder = Inception(net, digest="x", config=InceptionConfig(resize="bicubic_antialias"))
    image = torch.randint(0, 256, (1, 1, 320, 310), generator=torch.Generator().manual_seed(0))
    pil = Image.fromarray(image[0, 0].numpy().astype(np.float32), mode="F")
    expected = np.asarray(pil.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
    found = encoder.preprocess(image / 255)[0, 0] * 128 + 128  # gray levels
    torch.testing.assert_close(found, torch.from_numpy(expected.copy()), rtol=0, atol=0.02)
    plain = Inception(net, digest="x", config=InceptionConfig())
    assert plain.fingerprint() != encoder.fingerprint()


def test_only_the_published_file_is_loaded(tmp_path, net, monkeypatch):
    with pytest.raises(UserError, match=r"no Inception weights at \(no path\).*pytorch-fid"):
        InceptionConfig().build()
    with pytest.raises(UserError, match=r"no Inception weights at .*missing"):
        InceptionConfig(path=str(tmp_path / "missing")).build()
    path = tmp_path / "other.pth"
    torch.save(net.state_dict(), path)
    config = InceptionConfig(path=str(path))
    assert config.needs()[0].ok and not InceptionConfig().needs()[0].ok
    with pytest.raises(UserError, match=r"sha256.*would not be FID"):
        config.build()
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "SHA256", own)
    encoder = config.build()
    assert encoder.digest() == own
    assert all(torch.equal(a, b) for a, b in zip(
        encoder.net.state_dict().values(), net.state_dict().values(), strict=True
    ))  # fmt: skip
