"""Token alignment: cosines, grids, teacher tokens that must not be."""

import pytest
import torch
import torch.nn.functional as F

from latentsmith.errors import UserError
from latentsmith.losses.alignment import (
    check_tokens,
    teacher_grid,
    to_grid,
    token_cosine,
)


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_cosine():
    a, b = tokens(2, 6, 5), tokens(2, 6, 5, seed=1)
    torch.testing.assert_close(
        token_cosine(a, b), F.cosine_similarity(a, b, dim=-1), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(token_cosine(a, 3 * a), torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(token_cosine(a, -a), -torch.ones(2, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\[2, 6, 5\] against a teacher's \[2, 6, 4\]"):
        token_cosine(a, b[..., :4])


def test_gradient_goes_to_the_student_only():
    a, b = tokens(1, 3, 4).requires_grad_(), tokens(1, 3, 4, seed=1).requires_grad_()
    token_cosine(a, b).sum().backward()
    assert b.grad is None
    torch.autograd.gradcheck(lambda x: token_cosine(x, b.detach()), a)


def test_half_precision_neither_overflows_nor_vanishes():
    """In float16 the squares of 300 overflow and those of 1e-4 vanish: REPA's NaN."""
    big, small = torch.full((1, 2, 64), 300.0).half(), torch.full((1, 2, 64), 1e-4).half()
    for teacher in (big, small):
        student = teacher.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            cosine = token_cosine(student, teacher)
        assert cosine.dtype == torch.float32
        torch.testing.assert_close(cosine, torch.ones(1, 2))
        cosine.sum().backward()
        assert student.grad is not None and student.grad.isfinite().all()


def test_a_student_token_of_zero_has_a_finite_gradient():
    student = torch.zeros(1, 2, 4, requires_grad=True)
    token_cosine(student, torch.ones(1, 2, 4)).sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_grids_are_resized_in_raster_order():
    """A linear ramp over rows and another over columns stay what they are."""
    rows = torch.arange(4.0).repeat_interleave(6)
    columns = torch.arange(6.0).repeat(4)
    small = torch.stack([rows, columns], -1)[None]  # [1, 24, 2]
    assert to_grid(small, (4, 6), (4, 6)) is small
    large = to_grid(small, (4, 6), (8, 12)).view(8, 12, 2)
    inner = large[1:-1, 1:-1]
    want_rows = (torch.arange(8.0) + 0.5) / 2 - 0.5
    want_columns = (torch.arange(12.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(inner[..., 0], want_rows[1:-1, None].expand(6, 10))
    torch.testing.assert_close(inner[..., 1], want_columns[None, 1:-1].expand(6, 10))
    back = to_grid(large.view(1, 96, 2), (8, 12), (4, 6)).view(4, 6, 2)
    torch.testing.assert_close(back[1:-1, 1:-1], small.view(4, 6, 2)[1:-1, 1:-1])


def test_the_teachers_grid():
    assert teacher_grid(256, (16, 16)) == (16, 16)
    assert teacher_grid(256, (4, 4)) == (16, 16)
    assert teacher_grid(64, (16, 16)) == (8, 8)
    assert teacher_grid(8, (4, 8)) == (2, 4)
    for count in (257, 255, 128):
        with pytest.raises(UserError, match=f"{count} teacher tokens form no grid"):
            teacher_grid(count, (16, 16))
    with pytest.raises(UserError, match="form no grid of the shape of the network's 4x8"):
        teacher_grid(16, (4, 8))


def test_teacher_tokens_that_would_spoil_the_loss_are_named():
    good, index = tokens(4, 6, 5, dtype=torch.float32), torch.tensor([7, 8, 9, 10])
    check_tokens(good, index)
    check_tokens(F.normalize(good, dim=-1).half(), index, unit=True)
    with pytest.raises(UserError, match=r"sample 7 \(and 3 more.*length 1"):
        check_tokens(good * 2, index, unit=True)
    for value in (0.0, float("nan"), float("inf")):
        bad = good.clone()
        bad[2, 3:5] = value
        with pytest.raises(UserError, match=r"sample 9: 2 of 6 have no finite length above 0"):
            check_tokens(bad, index)
