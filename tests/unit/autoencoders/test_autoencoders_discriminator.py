"""PatchGAN: shapes, receptive field, norms, and that it learns."""

import pytest
import torch
from torch import nn

from latentsmith.autoencoders.discriminator import PatchDiscriminator
from latentsmith.errors import UserError
from latentsmith.losses.adversarial import discriminator_loss


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_the_stated_patch(layers, field):
    net = PatchDiscriminator(1, channels=4, layers=layers, norm="none")
    side = 2 * field + 2 ** (layers + 2)
    images = torch.rand(1, 1, side, side, requires_grad=True)
    logits = net(images)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    rows = images.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == field


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smallest_image_gives_one_logit_and_smaller_is_refused(layers):
    net = PatchDiscriminator(3, channels=4, layers=layers)
    assert net(torch.rand(2, 3, net.smallest, net.smallest)).shape == (2, 1, 1, 1)
    with pytest.raises(UserError, match="set its layers lower"):
        net(torch.rand(2, 3, net.smallest - 1, net.smallest))


def test_sees_minus_one_to_one():
    net = PatchDiscriminator(1, channels=4, layers=1)
    seen = []
    net.body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.rand(1, 1, 16, 16)
    net(images)
    torch.testing.assert_close(seen[0], images * 2 - 1)


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("spectral", [False, True])
def test_samples_do_not_see_each_other(norm, spectral):
    """No batch norm: a sample's logits do not depend on the rest of the batch, also in training."""
    torch.manual_seed(0)
    net = PatchDiscriminator(1, channels=8, layers=2, norm=norm, spectral=spectral)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    net.eval() if spectral else net.train()  # power iteration moves on each training pass
    images = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(net(images)[:1], net(images[:1]))


def test_spectral_norm_bounds_every_convolution():
    net = PatchDiscriminator(1, channels=4, layers=1, norm="none", spectral=True)
    for _ in range(30):
        net(torch.rand(1, 1, 16, 16))
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 3
    for conv in convs:
        largest = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
        torch.testing.assert_close(largest, torch.tensor(1.0), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_learns_to_tell_sharp_from_flat(kind):
    torch.manual_seed(0)
    net = PatchDiscriminator(1, channels=8, layers=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    real, fake = torch.rand(16, 1, 16, 16), torch.full((16, 1, 16, 16), 0.5)
    for _ in range(15):
        optimizer.zero_grad()
        discriminator_loss(net(real), net(fake), kind).backward()
        optimizer.step()
    assert net(real).mean() > net(fake).mean() + 0.5
