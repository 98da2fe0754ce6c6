"""Reconstruction, KL and adversarial losses against their formulas in float64."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from latentsmith.losses.adversarial import adaptive_weight, discriminator_loss, generator_loss
from latentsmith.losses.kl import gaussian_kl
from latentsmith.losses.reconstruction import reconstruction_loss, reconstruction_parts


def test_kl_equals_torch_distributions():
    mean, logvar = torch.randn(3, 4, 5, 5).double(), torch.randn(3, 4, 5, 5).double()
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), standard)
    torch.testing.assert_close(gaussian_kl(mean, logvar, "mean"), expected.mean())
    torch.testing.assert_close(gaussian_kl(mean, logvar, "sum"), expected.flatten(1).sum(1).mean())


def test_kl_vanishes_at_the_standard_normal_only_and_widens_half_precision():
    zero = torch.zeros(2, 3)
    assert gaussian_kl(zero, zero, "sum") == 0
    assert gaussian_kl(zero + 0.1, zero, "sum") > 0
    assert gaussian_kl(zero.bfloat16(), zero.bfloat16(), "sum").dtype == torch.float32


def test_reconstruction_terms():
    error = torch.tensor([0.0, 0.05, -0.3, 1.0]).double()
    images = torch.full_like(error, 0.5)
    parts = reconstruction_parts(images + error, images, delta=0.1)
    torch.testing.assert_close(parts["l1"], error.abs().mean())
    torch.testing.assert_close(parts["mse"], error.square().mean())
    huber = torch.where(error.abs() < 0.1, error.square() / 0.2, error.abs() - 0.05)
    torch.testing.assert_close(parts["huber"], huber.mean())
    mixed = reconstruction_loss(images + error, images, l1=2.0, mse=3.0, huber=5.0)
    torch.testing.assert_close(mixed, 2 * parts["l1"] + 3 * parts["mse"] + 5 * parts["huber"])
    assert reconstruction_loss(images.half(), images.half()).dtype == torch.float32


def test_gan_losses_at_known_logits():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    torch.testing.assert_close(discriminator_loss(real, fake), torch.tensor(0.5 * (0.5 + 1.0)))
    torch.testing.assert_close(generator_loss(fake), torch.tensor(1.0))
    bce = nn.BCEWithLogitsLoss()
    expected = 0.5 * (bce(real, torch.ones(2)) + bce(fake, torch.zeros(2)))
    torch.testing.assert_close(discriminator_loss(real, fake, "vanilla"), expected)
    torch.testing.assert_close(generator_loss(fake, "vanilla"), bce(fake, torch.ones(2)))


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_gan_gradients_push_apart_and_towards(kind):
    real, fake = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    discriminator_loss(real, fake, kind).backward()
    assert (real.grad < 0).all(), "descending raises the logits of images"
    assert (fake.grad > 0).all()
    fake.grad = None
    generator_loss(fake, kind).backward()
    assert (fake.grad < 0).all(), "descending raises the logits of reconstructions"


def test_adaptive_weight_is_the_ratio_of_gradients():
    torch.manual_seed(0)
    layer = nn.Linear(5, 7)
    out = layer(torch.randn(3, 5))
    rec, adv = out.square().mean(), 1e-2 * out.sin().mean()
    weight = adaptive_weight(rec, adv, layer.weight)
    g_rec = torch.autograd.grad(rec, layer.weight, retain_graph=True)[0]
    g_adv = torch.autograd.grad(adv, layer.weight, retain_graph=True)[0]
    torch.testing.assert_close(weight, g_rec.norm() / (g_adv.norm() + 1e-4))
    assert not weight.requires_grad
    assert weight.dtype == torch.float32
    assert layer.weight.grad is None, "probing must not leave gradients behind"
    (rec + weight * adv).backward()  # both graphs are still there
    assert layer.weight.grad is not None


def test_adaptive_weight_is_bounded_when_the_adversary_is_flat():
    layer = nn.Linear(5, 7)
    out = layer(torch.randn(3, 5))
    assert adaptive_weight(1e3 * out.square().sum(), 0 * out.sum(), layer.weight) == 1e4
