"""What every decoder of fields must hold to. A new one needs a line in `helpers.fields.DECODER`."""

from dataclasses import fields

import pytest
import torch

from helpers.fields import DECODER, EXACT, field_autoencoder, field_config, points
from latentsmith.autoencoders.field.decoders import DECODERS
from latentsmith.autoencoders.field.planes import Kriging
from latentsmith.backbones.mixers import Points

ALL = pytest.mark.parametrize("name", DECODERS.names())


@ALL
def test_shape_and_gradients(name):
    assert name in DECODER, f"decoder {name!r} is new: say how to make a tiny one"
    autoencoder = field_autoencoder(name)
    given, asked = points(), points(33, seed=1)[0]
    values = autoencoder.decode_at(autoencoder.encode_points(*given), asked)
    assert values.shape == (2, 33, 3) and values.dtype == torch.float32
    values.square().sum().backward()
    idle = [n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@ALL
def test_on_a_gpu(name, gpu):
    autoencoder = field_autoencoder(name).to(gpu)
    given, asked = [x.to(gpu) for x in points()], points(33, seed=1)[0].to(gpu)
    values = autoencoder.decode_at(autoencoder.encode_points(*given), asked)
    values.square().sum().backward()
    assert values.device == gpu and all(p.grad.device == gpu for p in autoencoder.parameters())


@ALL
def test_starts_at_the_blend_of_planes(name):
    autoencoder = field_config(name).build()
    (where, values), asked = points(), points(9, seed=1)[0]
    anchors = autoencoder.anchors()
    codes = autoencoder.encode_points(where, values)
    planes = Kriging(1.0)
    planes.reset()
    expected = planes(anchors, Points(where), values)
    torch.testing.assert_close(codes[:, :9].flatten(2).mT, expected)
    v, s = expected[..., :3], expected[..., 3:].unflatten(2, (2, 3))
    away = asked[:, :, None] - anchors.coordinates[:, None]  # two tokens a side: spacing 1
    weights = (-away.square().sum(-1) / (2 * 0.3**2)).softmax(-1)
    each = v[:, None] + (away[..., None] * s[:, None]).sum(3)  # [B, M, K, C]
    decoded = autoencoder.decode_at(codes, asked)
    torch.testing.assert_close(decoded, (weights[..., None] * each).sum(2))
    plain = field_config(name, planes=False).build()
    assert not plain.decode_at(plain.encode_points(where, values), asked).any()


@pytest.mark.parametrize("name", EXACT)
def test_a_value_depends_on_its_own_coordinate_alone(name):
    autoencoder = field_autoencoder(name)
    codes, asked = autoencoder.encode_points(*points()), points(70, seed=1)[0]
    whole = autoencoder.decode_at(codes, asked)
    order = torch.randperm(70)
    others = {
        "one": slice(7, 8),
        "some": slice(0, 70, 9),
        "permuted": order,
        "repeated": torch.arange(7).repeat_interleave(10),
    }
    for index in others.values():
        alone = autoencoder.decode_at(codes, asked[:, index])
        torch.testing.assert_close(alone, whole[:, index], rtol=0, atol=3e-5)
    chunked = autoencoder.decode_at(codes, asked, chunk=16)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=3e-5)


def test_the_joint_scan_is_no_function():
    autoencoder = field_autoencoder("joint")
    codes, asked = autoencoder.encode_points(*points()), points(70, seed=1)[0]
    whole = autoencoder.decode_at(codes, asked)
    assert (autoencoder.decode_at(codes, asked[:, :7]) - whole[:, :7]).abs().max() > 1e-2
    # chunks would be other queries: they are not made
    assert torch.equal(autoencoder.decode_at(codes, asked, chunk=16), whole)


@ALL
def test_output_depends_on_the_code_and_on_the_coordinate(name):
    autoencoder = field_autoencoder(name)
    codes, asked = autoencoder.encode_points(*points()), points(9, seed=1)[0]
    values = autoencoder.decode_at(codes, asked)
    assert (autoencoder.decode_at(codes + 0.5, asked) - values).abs().amax((0, 2)).min() > 1e-4
    assert (values[:, 1:] - values[:, :1]).abs().amax((0, 2)).min() > 1e-4


@ALL
def test_every_setting_has_help(name):
    from latentsmith.config.fields import field_help

    config = DECODERS[name].config
    helps = field_help(config)
    assert not [f.name for f in fields(config) if f.name != "kind" and not helps.get(f.name)]
    assert DECODERS[name].help
