"""Latent statistics in float64, and the checks that keep a wrong scale out."""

import pytest
import torch

from helpers.tiny_models import tiny_autoencoder
from latentsmith.autoencoders.kl import KLAutoencoderConfig
from latentsmith.autoencoders.normalizer import LatentMoments, LatentNormalizer, check_scale
from latentsmith.errors import UserError


def latents(n: int = 64, seed: int = 0) -> torch.Tensor:
    """[n, 3, 4, 5] with other mean and deviation in each channel."""
    z = torch.randn(n, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    scale, shift = torch.tensor([0.2, 3.0, 7.0]), torch.tensor([100.0, -1.0, 0.0])
    return z * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)


def measured(z: torch.Tensor) -> LatentNormalizer:
    return LatentNormalizer.measure([z], encoder_digest="abc")


@pytest.mark.parametrize("sizes", [[64], [1, 62, 1], [16] * 4])
def test_moments_equal_the_whole_whatever_the_parts(sizes):
    z = latents()
    moments = LatentMoments()
    for part in z.split(sizes):
        moments.update(part)
    channels = z.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, channels.mean(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moments.std(), channels.std(1, unbiased=False), rtol=1e-10, atol=0)
    assert moments.count == 64 * 20


def test_parts_of_two_processes_merge_into_the_whole():
    z = latents()
    left, right = LatentMoments().update(z[:10]), LatentMoments().update(z[10:])
    whole = LatentMoments().update(z)
    merged = LatentMoments().merge(left).merge(right).merge(LatentMoments())
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.m2, whole.m2, rtol=1e-10, atol=0)


def test_a_large_offset_does_not_cancel():
    z = latents().double() + 1e6
    expected = z.transpose(0, 1).flatten(1).std(1, unbiased=False)
    torch.testing.assert_close(LatentMoments().update(z).std(), expected, rtol=1e-7, atol=0)


def test_posterior_variance_adds_to_the_spread():
    mean, generator = latents(20_000), torch.Generator().manual_seed(1)
    variance = torch.full_like(mean, 4.0)
    draws = mean + 2 * torch.randn(mean.shape, generator=generator)
    analytic = LatentMoments().update(mean, variance).std()
    torch.testing.assert_close(analytic, LatentMoments().update(draws).std(), rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_trip(dtype):
    z = latents().to(dtype)
    normalizer = measured(z)
    normal = normalizer.normalize(z)
    assert normal.dtype == dtype
    channels = normal.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(3).double(), rtol=0, atol=2e-5)
    torch.testing.assert_close(channels.std(1, unbiased=False), torch.ones(3).double())
    tolerance = 1e-13 if dtype == torch.float64 else 2e-7
    torch.testing.assert_close(normalizer.denormalize(normal), z, rtol=tolerance, atol=tolerance)


def test_saved_numbers_survive_to_the_last_bit(tmp_path):
    normalizer = measured(latents())
    normalizer.save(tmp_path)
    loaded = LatentNormalizer.load(tmp_path)
    assert torch.equal(loaded.mean, normalizer.mean)
    assert torch.equal(loaded.std, normalizer.std)
    assert (loaded.encoder_digest, loaded.latent, loaded.count) == ("abc", "mode", 64 * 20)


def test_scaling_factor_is_one_over_the_overall_deviation():
    z = latents()
    assert measured(z).scaling_factor == pytest.approx(1 / float(z.double().std(unbiased=False)))


def test_diffusers_config_is_right_in_both_of_its_conventions():
    z = latents()
    normalizer = measured(z)
    config = normalizer.diffusers_config()
    scale = config["scaling_factor"]
    mean, std = (torch.tensor(config[k]).view(1, 3, 1, 1) for k in ("latents_mean", "latents_std"))
    # Stable Diffusion XL's pipelines, per channel:
    x = (z - mean) * scale / std
    torch.testing.assert_close(x, normalizer.normalize(z), rtol=1e-4, atol=1e-4)
    # Stable Diffusion 1's, one number: unit deviation overall.
    assert float((z * scale).std(unbiased=False)) == pytest.approx(1, rel=1e-5)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"has no latent_normalizer\.json"):
        LatentNormalizer.load(tmp_path)
    (tmp_path / "latent_normalizer.json").write_text('{"mean": [1]}')
    with pytest.raises(UserError, match="is damaged"):
        LatentNormalizer.load(tmp_path)


def test_dead_channels_nothing_and_nan_are_refused():
    z = latents()
    z[:, 1] = 2.0
    with pytest.raises(UserError, match=r"channel\(s\) \[1\] never change"):
        measured(z)
    with pytest.raises(UserError, match="no images were given"):
        LatentNormalizer.measure([], encoder_digest="abc")
    z[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        measured(z)


def test_other_channel_counts_are_refused():
    with pytest.raises(UserError, match="have 4 channels, their normalizer has 3"):
        measured(latents()).normalize(torch.randn(2, 4, 4, 4))


def test_check_scale_accepts_one_and_refuses_the_rest():
    z = measured(latents()).normalize(latents())
    assert check_scale(z) == pytest.approx(1, abs=1e-3)
    for wrong in (z * 0.18215, z / 0.18215, z * 1.3, torch.full_like(z, float("nan"))):
        with pytest.raises(UserError, match="a generator expects 1"):
            check_scale(wrong)


def test_a_published_scale_is_read_as_diffusers_reads_it():
    z = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sd = LatentNormalizer.from_config(
        {"scaling_factor": 0.18215, "latent_channels": 4}, encoder_digest="d"
    )
    torch.testing.assert_close(sd.normalize(z), z * 0.18215)
    shifted = {"scaling_factor": 0.36, "shift_factor": 0.12, "latent_channels": 4}
    sd3 = LatentNormalizer.from_config(shifted, encoder_digest="d")
    torch.testing.assert_close(sd3.normalize(z), (z - 0.12) * 0.36)
    assert sd.stated and sd3.stated


def test_what_is_stated_is_what_was_measured():
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    measured = LatentNormalizer(mean, mean.abs() + 0.5, "d", count=9)
    config = measured.diffusers_config() | {"latent_channels": 2}
    stated = LatentNormalizer.from_config(config, encoder_digest="d")
    torch.testing.assert_close(stated.mean, measured.mean)
    torch.testing.assert_close(stated.std, measured.std)
    assert stated.stated and not measured.stated


def test_stated_survives_saving_and_old_files_are_measured(tmp_path):
    stated = LatentNormalizer.from_config(
        {"scaling_factor": 2.0, "latent_channels": 1}, encoder_digest="d"
    )
    path = stated.save(tmp_path)
    assert LatentNormalizer.load(tmp_path).stated
    path.write_text(path.read_text().replace('"stated"', '"something"'))
    assert not LatentNormalizer.load(tmp_path).stated


def test_a_config_without_scale_is_refused():
    with pytest.raises(UserError, match=r"no scaling_factor.*measure"):
        LatentNormalizer.from_config({"latent_channels": 4}, encoder_digest="d")


def test_an_autoencoder_gives_its_own(tmp_path):
    autoencoder = KLAutoencoderConfig(source=tiny_autoencoder(tmp_path)).build()
    normalizer = autoencoder.stated_normalizer()
    assert autoencoder.require_normalizer() is normalizer
    assert normalizer.std.tolist() == pytest.approx([1 / 0.18215] * 2)


def test_quiet_channels_may_have_a_floor():
    latents = torch.randn(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    latents[:, 2] *= 1e-4
    moments = LatentMoments().update(latents)
    plain = LatentNormalizer.from_moments(moments, encoder_digest="x")
    kept = LatentNormalizer.from_moments(moments, encoder_digest="x", floor=0.5)
    mean = float(plain.std.mean())
    torch.testing.assert_close(kept.std[:2], plain.std[:2])
    assert float(kept.std[2]) == pytest.approx(0.5 * mean)
    assert float(plain.std[2]) < 1e-3
