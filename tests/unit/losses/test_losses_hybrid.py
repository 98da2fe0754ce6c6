"""Several references: the sum, its parts, its names."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.losses.base import PairLoss
from latentsmith.losses.correlation import PearsonConfig
from latentsmith.losses.hybrid import HybridPairLoss
from latentsmith.losses.none import NoneConfig
from latentsmith.losses.raw_mse import RawMSEConfig


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(10, 4, 2, 2, generator=rng, dtype=torch.float64)
    r = {n: torch.randn(10, k, generator=rng, dtype=torch.float64) for n, k in (("a", 3), ("b", 5))}
    return z, r


def test_is_the_weighted_sum(batch):
    z, r = batch
    z.requires_grad_()
    pearson, mse = PearsonConfig().build(), RawMSEConfig(distance="pooled").build()
    hybrid = HybridPairLoss({"a": pearson, "b": mse}, {"a": 0.7, "b": 0.2})
    total, parts = hybrid(z, r)
    expected = 0.7 * pearson(z, r["a"]) + 0.2 * mse(z, r["b"])
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(parts["b"], mse(z, r["b"]).detach())
    assert not parts["a"].requires_grad
    torch.testing.assert_close(
        torch.autograd.grad(total, z)[0], torch.autograd.grad(expected, z)[0]
    )


def test_one_loss_for_all_computes_latent_distances_once(batch, monkeypatch):
    z, r = batch
    calls = []
    real = PairLoss.latent_distances
    monkeypatch.setattr(
        PairLoss, "latent_distances", lambda self, x: calls.append(1) or real(self, x)
    )
    HybridPairLoss(PearsonConfig().build(), {"a": 1.0, "b": 1.0})(z, r)
    assert len(calls) == 1


def test_names_with_dots_and_no_loss(batch):
    z, r = batch
    z.requires_grad_()
    hybrid = HybridPairLoss(NoneConfig().build(), {"facebook/dinov2.base": 1.0})
    total, parts = hybrid(z, {"facebook/dinov2.base": r["a"]})
    total.backward()
    assert total.item() == 0
    assert set(parts) == {"facebook/dinov2.base"}


def test_a_wrong_name_is_named(batch):
    z, r = batch
    hybrid = HybridPairLoss(PearsonConfig().build(), {"a": 1.0, "pixel_pca": 1.0})
    with pytest.raises(UserError, match=r"weights name 'pixel_pca', references do not"):
        hybrid(z, {"a": r["a"]})
    with pytest.raises(UserError, match=r"references name 'pixelpca', weights do not.*'pixel_pca'"):
        hybrid(z, {"pixelpca": r["b"], "a": r["a"], "pixel_pca": r["b"]})


def test_batches_must_match(batch):
    z, r = batch
    with pytest.raises(ValueError, match="10 latents against 9 references"):
        HybridPairLoss(PearsonConfig().build(), {"a": 1.0})(z, {"a": r["a"][:9]})
