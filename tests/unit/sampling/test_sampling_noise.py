"""Noise that belongs to a sample."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.sampling.noise import BLOCK, NoiseSource, starting_noise

SHAPE = (2, 3, 3)


def test_a_sample_keeps_its_noise_in_any_company():
    everyone = starting_noise(5, range(40), SHAPE)
    assert everyone.shape == (40, *SHAPE) and everyone.dtype == torch.float32
    split = [0, 1, 2, 3, 30, 4, 5, 6, 7]  # a whole block with a stranger in it
    for some in ([0], [39], [17, 3, 3, 9], list(range(5, 29)), list(range(7, -1, -1)), split):
        assert torch.equal(starting_noise(5, some, SHAPE), everyone[some])
        assert torch.equal(starting_noise(5, torch.tensor(some), SHAPE), everyone[some])
    far = starting_noise(5, [10**12 + 3], SHAPE)
    assert torch.equal(far, starting_noise(5, range(10**12, 10**12 + 5), SHAPE)[3:4])


def test_steps_too():
    everyone = NoiseSource(5, range(40))
    for some in ([39, 0, 17], list(range(8, 24))):
        for step in (0, 1, 1000):
            assert torch.equal(NoiseSource(5, some)(step, SHAPE), everyone(step, SHAPE)[some])
    # asked for in any order, and again
    assert torch.equal(everyone(2, SHAPE), NoiseSource(5, range(40))(2, SHAPE))


def test_everything_named_makes_other_noise():
    start = starting_noise(0, range(2 * BLOCK), SHAPE)
    draws = [
        start,
        starting_noise(1, range(2 * BLOCK), SHAPE),
        starting_noise(0, range(2 * BLOCK, 4 * BLOCK), SHAPE),
        *(NoiseSource(0, range(2 * BLOCK))(step, SHAPE) for step in (0, 1, 2)),
        NoiseSource(1, range(2 * BLOCK))(0, SHAPE),
    ]
    rows = torch.cat([d.flatten(1) for d in draws])
    assert len(rows.unique(dim=0)) == len(rows)
    assert not torch.equal(starting_noise(0, range(3), (9,)), start[:3].flatten(1)[:, :9])


def test_it_is_standard_normal_and_independent():
    draws = torch.stack([NoiseSource(0, range(512))(k, (16,)) for k in range(8)])  # [8, 512, 16]
    assert draws.mean().abs() < 4 / draws.numel() ** 0.5
    assert (draws.var() - 1).abs() < 4 * (2 / draws.numel()) ** 0.5
    assert draws.abs().max() > 3.5
    flat = draws.flatten(1)
    correlation = flat @ flat.T / flat.shape[1] - torch.eye(8)
    assert correlation.abs().max() < 0.1
    neighbours = (draws[:, 1:] * draws[:, :-1]).mean()
    assert neighbours.abs() < 4 / draws.numel() ** 0.5


def test_the_same_on_every_machine_and_day():
    """Pinned: changing it would change every sample with a given seed."""
    pinned = torch.tensor(
        [[1.944757, -1.725926, 0.675153, -0.655543], [0.153083, 0.475565, -0.582849, -0.338694]]
    )
    torch.testing.assert_close(starting_noise(0, [0, 9], (4,)), pinned, rtol=1e-5, atol=1e-5)


def test_nothing_and_nonsense():
    assert starting_noise(0, [], SHAPE).shape == (0, *SHAPE)
    assert starting_noise(0, [3], ()).shape == (1,)
    with pytest.raises(UserError, match="sample numbers start at 0, got -1"):
        NoiseSource(0, [4, -1])
    source = NoiseSource(0, [0], device="meta")
    assert source(0, SHAPE).device.type == "meta"
