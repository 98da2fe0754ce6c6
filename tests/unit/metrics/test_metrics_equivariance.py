"""Equivariance error: axes and directions right, 0 for commuting encoders, 1 for unrelated ones."""

import pytest
import torch
import torch.nn.functional as F

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.equivariance import TRANSFORMS, apply, equivariance_error


def images(n: int = 6, h: int = 16, w: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0))


def pool(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 4)


def test_directions():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    assert apply(x, "hflip").flatten().tolist() == [2, 1, 4, 3]
    assert apply(x, "vflip").flatten().tolist() == [3, 4, 1, 2]
    assert apply(x, "rot90").flatten().tolist() == [2, 4, 1, 3]  # counter-clockwise
    assert apply(x, "rot270").flatten().tolist() == [3, 1, 4, 2]
    assert apply(images(), "scale75").shape == (6, 3, 12, 12)
    with pytest.raises(UserError, match="hflip"):
        apply(x, "shear")  # type: ignore[arg-type]


@pytest.mark.parametrize("transform", ["hflip", "vflip", "rot90", "rot180", "rot270"])
def test_pooling_commutes_exactly(transform):
    assert equivariance_error(pool, images(), transform=transform) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("transform", ["scale50", "scale75"])
def test_pooling_nearly_commutes_with_scaling(transform):
    x = F.interpolate(torch.rand(6, 3, 4, 4), 32, mode="bicubic").clamp(0, 1)
    assert equivariance_error(pool, x, transform=transform) < 0.05


def test_rectangular_images_rotate():
    assert equivariance_error(pool, images(4, 16, 24), transform="rot90") == pytest.approx(
        0, abs=1e-12
    )


@pytest.mark.parametrize(
    ("transform", "blind"), [("hflip", ["vflip"]), ("vflip", ["hflip"]), ("rot180", [])]
)
def test_the_axis_is_the_right_one(transform, blind):
    """An encoder that shifts along one axis fails its flip and keeps the other."""
    dims = {"hflip": -1, "vflip": -2, "rot180": -1}[transform]

    def shifting(x: torch.Tensor) -> torch.Tensor:
        return pool(x).roll(1, dims)

    assert equivariance_error(shifting, images(), transform=transform) > 0.3
    for other in blind:
        assert equivariance_error(shifting, images(), transform=other) == pytest.approx(
            0, abs=1e-12
        )


def test_unrelated_latents_read_one_and_offsets_do_not_hide_it():
    gen = torch.Generator().manual_seed(1)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(x), 4, 4, 4, generator=gen) + 100

    m = METRICS["equivariance_error"].measure(noise, images(200), stamp=Stamp("t", 200))
    assert m.value == pytest.approx(1.0, abs=0.05)
    assert m.interval[0] < m.interval[1]
    assert m.baseline == 1.0


def test_scale_of_latents_does_not_matter():
    def skew(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return scale * (pool(x) + 0.3 * pool(x).roll(1, -1))

    base = equivariance_error(skew, images())
    assert equivariance_error(lambda x: skew(x, 1e3) + 5, images()) == pytest.approx(base, rel=1e-4)


def test_edges():
    with pytest.raises(UserError, match=r"latents \[B, C, h, w\], got \[6, 768\]"):
        equivariance_error(lambda x: x.flatten(1), images())
    with pytest.raises(UserError, match="collapsed"):
        equivariance_error(lambda x: torch.zeros(len(x), 1, 2, 2), images())
    with pytest.raises(UserError, match="NaN"):
        equivariance_error(lambda x: pool(x) * torch.nan, images())
    with pytest.raises(UserError, match="stride divides"):
        equivariance_error(lambda x: F.avg_pool2d(x, 8, ceil_mode=False), images(2, 24, 24),
                           transform="scale50")  # fmt: skip
    assert len(TRANSFORMS) == 7
