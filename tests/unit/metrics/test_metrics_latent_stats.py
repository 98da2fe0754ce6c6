"""Latent statistics against SciPy and on tensors with known answers."""

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.metrics.latent_stats import (
    active_dims,
    channel_kurtosis,
    channel_moments,
    latent_kurtosis,
    latent_std,
    participation_ratio,
    spectral_slope,
)


def maps(n: int = 50) -> torch.Tensor:
    gen = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 2.0, 0.5]).view(1, 3, 1, 1)
    return torch.randn(n, 3, 8, 8, generator=gen, dtype=torch.float64) * scale + 3 * scale


def test_channel_statistics_match_scipy():
    from scipy.stats import kurtosis

    x = maps()
    flat = x.transpose(0, 1).flatten(1).numpy()
    mean, std = channel_moments(x)
    assert mean.tolist() == pytest.approx(flat.mean(1).tolist())
    assert std.tolist() == pytest.approx(flat.std(1, ddof=1).tolist())
    assert channel_kurtosis(x).tolist() == pytest.approx(kurtosis(flat, axis=1).tolist())
    assert latent_std(x) == pytest.approx(((std**2).mean() ** 0.5).item())
    uniform = torch.rand(4000, 2, 3, 3, dtype=torch.float64)
    assert latent_kurtosis(uniform) == pytest.approx(-1.2, abs=0.03)


def test_active_dims_counts_dead_ones():
    x = maps()
    x[:, 1] = 7.0
    assert active_dims(x) == pytest.approx(2 / 3)
    assert active_dims(x, threshold=1e9) == 0


@pytest.mark.parametrize(("n", "wide"), [(500, 12), (40, 200)])
def test_participation_ratio_matches_eigenvalues(n, wide):
    x = torch.randn(n, wide, dtype=torch.float64) * torch.linspace(0.1, 2, wide)
    values = torch.linalg.eigvalsh(x.T.cov())
    expected = values.sum() ** 2 / values.square().sum()
    assert participation_ratio(x) == pytest.approx(float(expected), rel=1e-9)
    line = torch.randn(n, 1, dtype=torch.float64) * torch.randn(1, wide, dtype=torch.float64)
    assert participation_ratio(line) == pytest.approx(1.0)


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_spectral_slope_of_coloured_noise(slope, size):
    gen = torch.Generator().manual_seed(0)
    white = torch.randn(200, 1, *size, generator=gen, dtype=torch.float64)
    fy, fx = (torch.fft.fftfreq(s, dtype=torch.float64) for s in size)
    radius = (fy[:, None] ** 2 + fx[None] ** 2).sqrt()
    radius[0, 0] = 1
    coloured = torch.fft.ifft2(torch.fft.fft2(white) * radius ** (slope / 2)).real
    assert spectral_slope(coloured) == pytest.approx(slope, abs=0.08)


def test_edges():
    x = maps()
    with pytest.raises(UserError, match="constant"):
        latent_kurtosis(torch.ones(9, 2, 8, 8))
    with pytest.raises(UserError, match="collapsed"):
        participation_ratio(torch.ones(9, 4))
    with pytest.raises(UserError, match="h, w >= 8"):
        spectral_slope(x[..., :4])
    with pytest.raises(UserError, match="NaN"):
        latent_std(x * torch.nan)
    with pytest.raises(UserError, match="at least 2"):
        active_dims(x[:1])
