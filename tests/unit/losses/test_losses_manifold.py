"""Relations between tokens and between images: values, gradients, processes, bad batches."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from latentsmith.errors import UserError
from latentsmith.losses.manifold import ManifoldConfig, image_relations, token_relations


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Vectors [n, D], [n, E]: the formula, pair by pair."""
    values = [
        (F.cosine_similarity(h[i], h[j], dim=0) - F.cosine_similarity(y[i], y[j], dim=0)) ** 2
        for i, j in itertools.combinations(range(len(h)), 2)
    ]
    return torch.stack(values).mean()


def pooled(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=-1).mean(1)


def test_values_against_a_loop_over_pairs():
    h, y = tokens(5, 4, 3), tokens(5, 4, 7, seed=1)
    torch.testing.assert_close(image_relations(h, y), naive(pooled(h), pooled(y)))
    each = torch.stack([naive(a, b) for a, b in zip(h, y, strict=True)])
    torch.testing.assert_close(token_relations(h, y), each)


def test_images_may_have_other_numbers_of_tokens_and_tokens_may_not():
    h, y = tokens(5, 4, 3), tokens(5, 9, 7, seed=1)
    torch.testing.assert_close(image_relations(h, y), naive(pooled(h), pooled(y)))
    with pytest.raises(ValueError, match=r"\[5, 4, 3\] against a teacher's \[5, 9, 7\]"):
        token_relations(h, y)


def test_the_source_s_formula_is_that_of_images():
    """Upper triangle of the Gram matrices' difference, over its number of entries."""
    h, y = F.normalize(tokens(6, 4, 8), dim=-1), F.normalize(tokens(6, 4, 8, seed=1), dim=-1)
    g, w = (F.normalize(x.mean(1), dim=-1) for x in (h, y))
    mask = torch.ones(6, 6, dtype=torch.float64).triu(1)
    source = (((g @ g.T - w @ w.T) * mask) ** 2).sum() / mask.sum()
    torch.testing.assert_close(image_relations(h, y), source)


def test_zero_for_relations_that_agree_whatever_turns_and_scales():
    y = tokens(4, 5, 6)
    turn = torch.linalg.qr(tokens(6, 6, seed=2))[0]
    scale = tokens(4, 5, 1, seed=3).abs() + 0.1
    for loss in (image_relations(3 * y @ turn, y), token_relations(y @ turn * scale, y).sum()):
        assert float(loss) < 1e-28


def test_the_mean_does_not_shrink_with_the_diagonal():
    """Two images at a right angle, two alike: one pair, difference 1."""
    student = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert float(image_relations(student, teacher)) == 1.0


@pytest.mark.parametrize("scope", ["images", "tokens", "both"])
def test_gradient(scope):
    config = ManifoldConfig(scope=scope)
    h, y = tokens(3, 4, 5).requires_grad_(), tokens(3, 4, 6, seed=1).requires_grad_()
    torch.autograd.gradcheck(lambda x: config.loss(x, y.detach()), h)
    config.loss(h, y).backward()
    assert y.grad is None and h.grad is not None
    assert bool((h.grad.abs().sum(-1) > 0).all()), "every token of every image"


def test_scopes_add_up():
    h, y = tokens(3, 4, 5), tokens(3, 4, 5, seed=1)
    one, other, both = (ManifoldConfig(scope=s).loss(h, y) for s in ("images", "tokens", "both"))
    torch.testing.assert_close(one + other, both)


def test_beyond_the_cap_there_is_no_gradient():
    h, y = tokens(3, 4, 5).requires_grad_(), tokens(3, 4, 5, seed=1)
    free = ManifoldConfig().loss(h, y).item()
    capped = ManifoldConfig(cap=free / 2).loss(h, y)
    assert capped.item() == pytest.approx(free / 2)
    assert float(torch.autograd.grad(capped, h)[0].abs().sum()) == 0
    below = ManifoldConfig(cap=free * 2).loss(h, y)
    assert float(torch.autograd.grad(below, h)[0].abs().sum()) > 0


def test_autocast_and_half_precision_do_not_round_the_relations():
    h, y = tokens(8, 16, 64, dtype=torch.float32), tokens(8, 16, 64, seed=1, dtype=torch.float32)
    exact = ManifoldConfig(scope="both").loss(h.double(), y.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = ManifoldConfig(scope="both").loss(h, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    half = ManifoldConfig(scope="both").loss(h.bfloat16(), y.half())
    assert half.dtype == torch.float32 and half.isfinite()


def test_zero_tokens_have_a_finite_gradient():
    h = torch.zeros(2, 3, 4, requires_grad=True)
    ManifoldConfig(scope="both").loss(h, torch.ones(2, 3, 4)).backward()
    assert h.grad is not None and bool(h.grad.isfinite().all())


def test_one_image_has_no_relations():
    with pytest.raises(UserError, match=r"at least 2 .* or set manifold\.scope=tokens"):
        image_relations(tokens(1, 4, 5), tokens(1, 4, 5))
    assert token_relations(tokens(1, 4, 5), tokens(1, 4, 5, seed=1)).shape == (1,)
