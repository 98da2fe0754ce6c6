"""Distance of generated features from real ones, and error of features that were read back."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics.feature_error import feature_mse, feature_mse_per_sample
from latentsmith.metrics.off_manifold import (
    nearest_distance,
    off_manifold,
    off_manifold_per_sample,
)


def draw(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_nearest_distances_against_all_of_them():
    x, bank = draw(50, 6), draw(80, 6, seed=1)
    wanted = torch.cdist(x.double(), bank.double()).min(1).values
    torch.testing.assert_close(nearest_distance(x, bank).double(), wanted, atol=1e-5, rtol=0)
    # near points far from the origin: the product form alone would lose all digits
    far = draw(5, 6, seed=2) + 1000
    torch.testing.assert_close(
        nearest_distance(far + 1e-2, far), torch.full((5,), 1e-2 * 6**0.5), rtol=0.02, atol=0
    )


def test_real_features_are_as_near_as_real_ones():
    """Others of the same distribution: 1, whatever its size and place."""
    real, other = 30 * draw(4000, 5) + 7, 30 * draw(1000, 5, seed=1) + 7
    assert off_manifold(other, real) == pytest.approx(1.0, abs=0.05)


def test_off_the_plane_is_told_by_how_far():
    flat = torch.cat([draw(4000, 3), torch.zeros(4000, 3)], 1)
    near = torch.cat([draw(500, 3, seed=1), torch.zeros(500, 3)], 1)
    ratios = [off_manifold(near + off * torch.eye(6)[5], flat) for off in (0.0, 1.0, 3.0)]
    assert ratios[0] == pytest.approx(1.0, abs=0.15)
    assert ratios[0] < ratios[1] < ratios[2]
    usual = nearest_distance(flat, flat, others=True).mean()
    assert ratios[2] == pytest.approx(float(3.0 / usual), rel=0.02)  # the offset is the distance


def test_tokens_count_for_their_sample():
    real = draw(300, 4, 6)
    made = draw(10, 4, 6, seed=1)
    made[3, 2] += 100
    found = off_manifold_per_sample(made, real)
    assert found.shape == (10,)
    assert found.argmax() == 3
    alone = off_manifold_per_sample(made[2:3], real)
    torch.testing.assert_close(alone[0], found[2])
    assert off_manifold(made, real) == pytest.approx(float(found.mean()))


def test_what_cannot_be_measured_is_told():
    with pytest.raises(UserError, match="are 5 wide and real ones 6"):
        off_manifold(draw(4, 5), draw(9, 6))
    with pytest.raises(UserError, match="collapsed"):
        off_manifold(draw(4, 5), torch.ones(9, 5))
    with pytest.raises(UserError, match="generated features"):
        off_manifold(draw(4, 5) / 0, draw(9, 5))


def test_feature_error_is_the_mean_square():
    a, b = draw(7, 4, 3), draw(7, 4, 3, seed=1)
    torch.testing.assert_close(
        torch.tensor(feature_mse(a, b)), ((a - b).double() ** 2).mean().float()
    )
    assert feature_mse_per_sample(a, b).shape == (7,)
    assert feature_mse(a, a) == 0
    with pytest.raises(UserError, match="one shape"):
        feature_mse(a, b[:, :2])
