"""PSNR, SSIM and MS-SSIM against torchmetrics, on the rounding they state."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.reconstruction import (
    perceptual_distance,
    psnr,
    psnr_per_image,
    psnr_pooled,
    to_8bit,
)
from latentsmith.metrics.ssim import ms_ssim, ssim


def pictures(n: int = 5, size: int = 40, channels: int = 3, seed: int = 0):
    gen = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, size // 4, size // 4, generator=gen)
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    strength = torch.linspace(0.01, 0.3, n).view(-1, 1, 1, 1)
    return images, images + strength * torch.randn(images.shape, generator=gen)


def test_psnr_matches_torchmetrics_per_image_and_pooled():
    from torchmetrics.functional.image import peak_signal_noise_ratio as oracle

    images, recon = pictures()
    a, b = to_8bit(images.double()), to_8bit(recon.double())
    expected = oracle(b, a, data_range=1.0, dim=(1, 2, 3), reduction="none")
    assert torch.allclose(psnr_per_image(images, recon), expected.double(), atol=1e-5)
    assert psnr(images, recon) == pytest.approx(float(expected.mean()), abs=1e-5)
    pooled = float(oracle(b, a, data_range=1.0))
    assert psnr_pooled(images, recon) == pytest.approx(pooled, abs=1e-5)
    assert psnr(images, recon) - psnr_pooled(images, recon) > 3  # they really differ


def test_psnr_known_value_and_rounding():
    images = torch.full((2, 1, 8, 8), 100 / 255)
    assert psnr(images, images + 10 / 255) == pytest.approx(20 * torch.tensor(25.5).log10().item())
    # A third of a grey level vanishes when the picture is saved.
    assert psnr(images, images + 0.3 / 255) == psnr(images, images)
    # Values beyond white and black are clamped as a saved picture would be.
    assert psnr(torch.ones(1, 1, 8, 8), torch.full((1, 1, 8, 8), 7.0)) == psnr(images, images)


def test_perfect_reconstruction_is_finite_and_above_the_smallest_error():
    images = torch.rand(3, 3, 8, 8)
    nearly = to_8bit(images)
    nearly[:, 0, 0, 0] += 1 / 255 * torch.where(nearly[:, 0, 0, 0] < 0.5, 1, -1)
    nearly[:, 0, 0, 1] += 1 / 255 * torch.where(nearly[:, 0, 0, 1] < 0.5, 1, -1)
    assert torch.isfinite(torch.tensor(psnr(images, images)))
    assert psnr(images, images) > psnr(images, nearly) > 60


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_matches_torchmetrics(channels):
    from torchmetrics.functional.image import structural_similarity_index_measure as oracle

    images, recon = pictures(channels=channels)
    _, full = oracle(to_8bit(recon), to_8bit(images), data_range=1.0, return_full_image=True)
    inside = full[..., 5:-5, 5:-5]  # it also averages over reflected borders, which we do not
    assert ssim(images, recon) == pytest.approx(float(inside.mean()), abs=1e-5)
    assert ssim(images, images) == pytest.approx(1.0)


def test_ms_ssim_matches_torchmetrics():
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as whole,
    )
    from torchmetrics.functional.image import structural_similarity_index_measure as one_scale

    images, recon = pictures(n=2, size=176, channels=1)
    a, b = to_8bit(recon), to_8bit(images)
    # Its last scale averages over reflected borders; only that factor is replaced.
    half_a, half_b = (torch.nn.functional.avg_pool2d(x, 16) for x in (a, b))
    wide, full = one_scale(half_a, half_b, data_range=1.0, return_full_image=True, reduction="none")
    inside = full[..., 5:-5, 5:-5].mean((1, 2, 3))
    theirs = whole(a, b, data_range=1.0, reduction="none")
    expected = (theirs * (inside / wide) ** 0.1333).mean()
    assert ms_ssim(images, recon) == pytest.approx(float(expected), abs=1e-5)


def test_interval_is_over_images():
    images, recon = pictures(n=40)
    m = METRICS["psnr"].measure(images, recon, stamp=Stamp("t", 40))
    values = psnr_per_image(images, recon)
    half = 1.96 * float(values.std()) / 40**0.5
    assert m.unit == "dB"
    assert m.interval[0] == pytest.approx(m.value - half, abs=0.3 * half)
    assert m.interval[1] == pytest.approx(m.value + half, abs=0.3 * half)


def test_perceptual_distance_clamps_the_reconstruction():
    seen = []

    def distance(a, b):
        seen.append(b)
        return (a - b).abs().flatten(1).mean(1)

    images = torch.rand(3, 1, 8, 8)
    assert perceptual_distance(images, images, distance) == 0
    perceptual_distance(images, images + 2, distance)
    assert float(seen[-1].max()) == 1.0


def test_edges():
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(UserError, match="at least 11 x 11, got 8 x 8"):
        ssim(images, images)
    with pytest.raises(UserError, match="at least 161"):
        ms_ssim(images, images)
    with pytest.raises(UserError, match="one shape"):
        psnr(images, images[:1])
    with pytest.raises(UserError, match=r"must lie in \[0, 1\], found \[-"):
        psnr(images * 2 - 1, images)
    with pytest.raises(UserError, match="recon hold NaN"):
        psnr(images, images * torch.nan)
