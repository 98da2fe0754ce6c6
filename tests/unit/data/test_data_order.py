"""Order and random streams are pure functions of the position."""

import pytest
import torch

from latentsmith.data.order import order, rank_slice
from latentsmith.data.streams import BLOCK, uniforms


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_every_sample_once_per_epoch(n):
    stream = order(n, 3, 0, 4 * n)
    for epoch in stream.view(4, n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_epochs_and_seeds_differ():
    first, second = order(100, 0, 0, 200).view(2, 100)
    assert not torch.equal(first, second)
    assert not torch.equal(first, order(100, 1, 0, 100))


@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 13, 20, 41])
@pytest.mark.parametrize("shuffle", [True, False])
def test_resume_anywhere_equals_uninterrupted(start, shuffle):
    whole = order(7, 5, 0, 70, shuffle=shuffle)
    torch.testing.assert_close(order(7, 5, start, 23, shuffle=shuffle), whole[start : start + 23])


def test_unshuffled_counts_up():
    assert order(3, 0, 2, 5, shuffle=False).tolist() == [2, 0, 1, 2, 0]


def test_nothing_asked_gives_nothing():
    assert order(3, 0, 2, 0).shape == (0,)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="n >= 1"):
        order(0, 0, 0, 1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 12, 13])
def test_rank_slices_tile_the_batch(world_size, count):
    parts = [torch.arange(count)[rank_slice(count, r, world_size)] for r in range(world_size)]
    assert torch.cat(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_uniforms_depend_on_name_and_position_only():
    positions = torch.tensor([5, BLOCK - 1, BLOCK, 10 * BLOCK + 3])
    together = uniforms((1, "a"), positions, 3)
    for row, position in zip(together, positions, strict=True):
        torch.testing.assert_close(uniforms((1, "a"), position[None], 3)[0], row, rtol=0, atol=0)
    assert not torch.equal(uniforms((2, "a"), positions, 3), together)
    assert not torch.equal(uniforms((1, "b"), positions, 3), together)


def test_uniforms_are_uniform_and_unlike_their_neighbours():
    draws = uniforms((0, "u"), torch.arange(20_000), 2)
    assert draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.01 and abs(draws.var() - 1 / 12) < 0.002
    lagged = torch.corrcoef(torch.stack([draws[:-BLOCK, 0], draws[BLOCK:, 0]]))[0, 1]
    assert abs(lagged) < 0.03
