"""Paths, path length and iFID on decoders whose answers are known."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.ifid import decode_midpoints, ifid, nearest_partner
from latentsmith.metrics.interpolation import lerp, path, path_grid, slerp
from latentsmith.metrics.path_length import (
    path_length,
    path_length_cv,
    path_length_variance,
    path_speeds,
    pixel_features,
    squared_distance,
)

PIXELS = squared_distance(pixel_features)


def latents(n: int, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 3, 3, generator=gen, dtype=torch.float64)


def identity(z: torch.Tensor) -> torch.Tensor:
    return z


def test_paths_start_and_end_where_they_should():
    a, b = latents(4), latents(4, 1)
    for move in (lerp, slerp):
        assert torch.allclose(move(a, b, 0.0), a)
        assert torch.allclose(move(a, b, 1.0), b)
        mixed = move(a, b, torch.tensor([0.0, 1.0, 0.5, 0.5]))
        assert torch.allclose(mixed[0], a[0])
        assert torch.allclose(mixed[1], b[1])
    assert torch.allclose(lerp(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_slerp_keeps_the_norm_and_turns_evenly():
    a, b = latents(5), latents(5, 1)
    a, b = (x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 3 for x in (a, b))
    points = torch.stack([slerp(a, b, t / 10).flatten(1) for t in range(11)])
    assert torch.allclose(points.norm(dim=2), torch.tensor(3.0, dtype=torch.float64))
    steps = points.diff(dim=0).norm(dim=2)
    assert torch.allclose(steps, steps[:1].expand_as(steps))


def test_slerp_of_parallel_opposite_and_zero_vectors_is_lerp():
    a = latents(3)
    b = torch.stack([2 * a[0], -a[1], torch.zeros_like(a[2])])
    assert torch.allclose(slerp(a, b, 0.25), lerp(a, b, 0.25))


def test_unknown_path_is_refused():
    with pytest.raises(UserError, match="lerp, slerp"):
        path("cubic")


@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_straight_line_has_constant_speed_whatever_eps(eps):
    a, b = latents(6), latents(6, 1)
    speeds = path_speeds(identity, a, b, PIXELS, steps=5, eps=eps, batch_size=4)
    expected = (b - a).square().flatten(1).mean(1)[:, None].expand(6, 5)
    assert torch.allclose(speeds, expected, rtol=1e-6)


def test_a_jump_in_the_decoder_shows_in_the_variance_not_in_a_straight_one():
    z = latents(12)

    def jumpy(x: torch.Tensor) -> torch.Tensor:
        return x + 5 * torch.tanh(20 * x[:, :1])

    assert path_length_variance(identity, z, PIXELS) == pytest.approx(0, abs=1e-9)
    assert path_length_cv(identity, z, PIXELS) < 1e-6
    assert path_length_cv(jumpy, z, PIXELS) > 0.5
    # The coefficient does not see the scale of the images; mean and variance do.
    scaled = path_length_cv(lambda x: 10 * jumpy(x), z, PIXELS)
    assert scaled == pytest.approx(path_length_cv(jumpy, z, PIXELS), rel=1e-9)
    assert path_length(lambda x: 10 * x, z, PIXELS) == pytest.approx(
        100 * path_length(identity, z, PIXELS), rel=1e-9
    )


def test_known_speed_profile():
    """decode(z) = z^2 along z = t: speed (2t)^2 at the step's middle."""
    start, end = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    speeds = path_speeds(lambda z: z**2, start, end, PIXELS, steps=4, eps=0.02)
    middles = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    assert torch.allclose(speeds[0], 4 * middles**2)


def test_standing_path_has_zero_cv():
    z = latents(1).repeat(4, 1, 1, 1)
    assert path_length_cv(identity, z, PIXELS) == 0


def test_measurement_interval_is_over_paths():
    z = latents(60)
    m = METRICS["path_length"].measure(identity, z, PIXELS, stamp=Stamp("t", 30))
    assert m.interval[0] < m.value < m.interval[1]
    assert m.stamp.detail["eps"] == 1e-2
    assert m.stamp.detail["kind"] == "lerp"


def test_path_edges():
    z = latents(4)
    with pytest.raises(UserError, match="eps <= 1/steps"):
        path_speeds(identity, z, z, PIXELS, steps=8, eps=0.5)
    with pytest.raises(UserError, match="decoded images hold NaN"):
        path_speeds(lambda x: x * torch.nan, z, z, PIXELS)
    with pytest.raises(UserError, match="at least 2 steps"):
        path_length_variance(identity, z, PIXELS, steps=1)


def test_path_grid_shape():
    grid = path_grid(identity, latents(3), latents(3, 1), steps=5)
    assert grid.shape == (3, 5, 2, 3, 3)
    assert torch.allclose(grid[:, 0], latents(3))


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def test_midpoints_are_between_nearest_neighbours():
    z = torch.tensor([0.1, 0.2, 0.5, 0.55]).view(4, 1, 1, 1)
    assert nearest_partner(z, None, "lerp").tolist() == [1, 0, 3, 2]
    found = decode_midpoints(identity, z, flat, keep_images=3)
    assert found.features[:, 0].tolist() == pytest.approx([0.15, 0.15, 0.525, 0.525])
    assert found.images.shape == (3, 1, 1, 1)
    end = decode_midpoints(identity, z, flat, alpha=1.0).features[:, 0]
    assert end.tolist() == pytest.approx([0.2, 0.1, 0.55, 0.5])


def test_slerp_neighbours_are_by_angle_and_a_bank_is_searched():
    z = torch.tensor([[1.0, 0.0], [10.0, 0.1], [1.1, 1.0]]).view(3, 2, 1, 1)
    assert nearest_partner(z, None, "slerp").tolist() == [1, 0, 1]
    assert nearest_partner(z, None, "lerp").tolist() == [2, 2, 0]
    bank = torch.tensor([[9.0, 0.0], [1.0, 1.0]]).view(2, 2, 1, 1)
    assert nearest_partner(z, bank, "lerp").tolist() == [1, 0, 1]
    got = decode_midpoints(identity, z / 10, flat, bank=bank / 10, alpha=1.0).features
    assert torch.allclose(got.float(), bank.flatten(1)[[1, 0, 1]] / 10)


def test_ifid_is_zero_without_interpolation_and_grows_when_midpoints_leave_the_data():
    gen = torch.Generator().manual_seed(0)
    # Data on a circle; a decoder that keeps midpoints near it against one that shrinks them.
    angle = torch.rand(40, generator=gen, dtype=torch.float64) * 6.28
    images = torch.stack([angle.cos(), angle.sin()], 1) / 2.5 + 0.5
    points = images.view(-1, 2, 1, 1)
    real = points.flatten(1)
    assert ifid(identity, points, flat, real, alpha=0.0) == pytest.approx(0, abs=1e-9)

    def blur(z: torch.Tensor) -> torch.Tensor:
        return (z - 0.5) * 0.7 + 0.5

    assert ifid(blur, points, flat, real) > 5 * ifid(identity, points, flat, real)


def test_ifid_edges():
    z = latents(3)
    with pytest.raises(UserError, match="latents hold NaN"):
        decode_midpoints(identity, z * torch.nan, flat)
    with pytest.raises(UserError, match="at least 2"):
        decode_midpoints(identity, z[:1], flat)
    with pytest.raises(UserError, match="wide"):
        nearest_partner(z, torch.zeros(3, 5), "lerp")
