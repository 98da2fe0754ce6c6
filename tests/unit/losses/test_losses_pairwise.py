"""Distances of all pairs: against SciPy in float64, and where float32 formulas break."""

import pytest
import torch
from scipy.spatial.distance import pdist

from latentsmith.losses import pairwise
from latentsmith.losses.pairwise import pairs, pairwise_distances


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def saved_bytes(call):
    """Bytes of the distinct tensors that ``call`` keeps for its backward pass."""
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.update({t.data_ptr(): t.nbytes}) or t, lambda t: t
    ):
        call()
    return sum(saved.values())


def direct(x):
    """[B, D] → [B, B] by differences, with autograd on the off-diagonal only."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    condensed = (x[i] - x[j]).square().sum(1).sqrt()
    d = x.new_zeros(len(x), len(x)).index_put((i, j), condensed)
    return d + d.T


@pytest.mark.parametrize("batch", [1, 2, 7, 511, 512, 700])  # 512: from here in Gram blocks
def test_equals_scipy(batch):
    x = draw(batch, 5)
    d = pairwise_distances(x)
    assert torch.equal(d, d.T) or torch.allclose(d, d.T, rtol=0, atol=1e-14)
    assert torch.equal(d.diagonal(), torch.zeros(batch, dtype=x.dtype))
    torch.testing.assert_close(pairs(d), torch.from_numpy(pdist(x.numpy())), rtol=1e-11, atol=1e-12)


def test_gram_blocks_equal_one_product(monkeypatch):
    x = draw(600, 11)
    x[599] = x[3]  # near pairs in an off-diagonal block …
    x[590] = x[5] + 1e-9
    x[401] = x[400] + 1e-9  # … and in diagonal ones
    weight = draw(600, 600, seed=1)

    def run():
        z = x.clone().requires_grad_()
        d = pairwise_distances(z)
        return d.detach(), torch.autograd.grad((d * weight).sum(), z)[0]

    blocks = run()
    monkeypatch.setattr(pairwise, "BLOCK", 10**6)
    whole = run()
    torch.testing.assert_close(blocks, whole, rtol=1e-10, atol=1e-12)
    assert blocks[0][599, 3] == 0
    for i, j in ((590, 5), (5, 590), (400, 401)):
        assert blocks[0][i, j].item() == pytest.approx(1e-9 * 11**0.5, rel=1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (3, 6, 4)])
def test_gradcheck(shape):
    assert torch.autograd.gradcheck(pairwise_distances, (draw(*shape).requires_grad_(),))


def test_gradient_of_unsymmetric_use_equals_autograd():
    x = draw(9, 4).requires_grad_()
    weight = draw(9, 9, seed=1).triu(1)  # only one triangle used, as `pairs` does
    ours = torch.autograd.grad((pairwise_distances(x) * weight).sum(), x)[0]
    theirs = torch.autograd.grad((direct(x) * weight).sum(), x)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_sets_are_averaged_and_chunks_change_nothing(monkeypatch):
    x = draw(5, 8, 3)
    x[2, 1] = x[2, 0]  # coincident in one set only
    weight = draw(8, 8, seed=1)

    def run():
        z = x.clone().requires_grad_()
        d = pairwise_distances(z)
        return d.detach(), torch.autograd.grad((d * weight).sum(), z)[0]

    together = run()
    expected = torch.stack([pairwise_distances(s) for s in x]).mean(0)
    torch.testing.assert_close(together[0], expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(pairwise, "CHUNK", 64)  # one set at a time
    torch.testing.assert_close(run(), together, rtol=1e-12, atol=1e-12)


def test_coincident_points_have_distance_zero_and_zero_subgradient():
    x = draw(40, 4096, dtype=torch.float32)
    x[7] = x[31]
    z = x.clone().requires_grad_()
    d = pairwise_distances(z)
    assert d[7, 31] == 0
    assert torch.autograd.grad(d[7, 31], z)[0].abs().max() == 0
    z = x.clone().requires_grad_()
    d = pairwise_distances(z)
    grad = torch.autograd.grad(d.square().sum() + d.sum(), z)[0]
    exact = x.double().requires_grad_()
    reference = pairwise_distances(exact)
    expected = torch.autograd.grad(reference.square().sum() + reference.sum(), exact)[0]
    torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_near_pairs_keep_their_digits_in_float32(offset):
    """Research E §4.1: cdist and the plain Gram are wrong by 3 % to 120 % here."""
    x = draw(64, 4096) + offset
    x[1] = x[0] + 1e-2 * draw(4096, seed=1)
    x[3] = x[2] + 1e-4 * draw(4096, seed=2)
    x = x.float()  # the truth is that of the rounded points
    exact = direct(x.double())
    z = x.clone().requires_grad_()
    d = pairwise_distances(z)
    assert ((d - exact) / exact.clamp_min(1e-30)).abs().max() < 2e-5
    for i in (0, 2):  # the unit vector from one near point to the other
        grad = torch.autograd.grad(d[i, i + 1], z, retain_graph=True)[0].double()
        unit = (x[i].double() - x[i + 1].double()) / exact[i, i + 1]
        torch.testing.assert_close(grad[i], unit, rtol=0, atol=1e-5)
        torch.testing.assert_close(grad[i + 1], -unit, rtol=0, atol=1e-5)


def test_all_points_coincide():
    z = torch.full((5, 8), 3.7, requires_grad=True)
    d = pairwise_distances(z)
    assert d.abs().max() == 0
    assert torch.autograd.grad(d.sum(), z)[0].abs().max() == 0


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_is_passed_on(scale):
    x = draw(16, 100, dtype=torch.float32)
    torch.testing.assert_close(
        pairwise_distances(x * scale), pairwise_distances(x) * scale, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cast_up_first(dtype):
    x = (5 * draw(32, 4096)).to(dtype)  # squared norms overflow float16
    d = pairwise_distances(x)
    assert d.dtype == torch.float32
    torch.testing.assert_close(d.double(), direct(x.double()), rtol=1e-5, atol=1e-5)


def test_autocast_is_ignored_forward_and_backward():
    x = draw(16, 64, dtype=torch.float32)

    def run():
        z = x.clone().requires_grad_()
        d = pairwise_distances(z)
        return d.detach(), torch.autograd.grad(d.square().sum(), z)[0]

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = run()
    assert torch.equal(plain[0], autocast[0])
    assert torch.equal(plain[1], autocast[1])


def test_saved_memory_is_points_and_one_matrix():
    x = torch.randn(300, 50, requires_grad=True)
    assert saved_bytes(lambda: pairwise_distances(x)) <= 2 * x.nbytes + 4 * 300 * 300 + 1000
    x = torch.randn(64, 20, 4, requires_grad=True)
    # not one matrix for each of the 64 sets
    assert saved_bytes(lambda: pairwise_distances(x)) <= x.nbytes + 1000
