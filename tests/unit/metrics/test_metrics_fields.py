"""Metrics of fields, against cases solved by hand and a naive loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from latentsmith.data.fields import grid
from latentsmith.errors import UserError
from latentsmith.metrics import METRICS, Stamp
from latentsmith.metrics.field_draws import draw_scores
from latentsmith.metrics.field_invariance import input_stability, query_invariance
from latentsmith.metrics.field_paths import gradient_energy, path_shape
from latentsmith.metrics.field_roughness import (
    laplacian_energy,
    residual_correlation,
    roughness,
    roughness_per_sample,
)
from latentsmith.metrics.field_values import (
    across_scales,
    agreement,
    agreement_per_sample,
    fidelity,
    observed_per_sample,
    unobserved_per_sample,
)
from latentsmith.metrics.reconstruction import psnr_per_image
from latentsmith.metrics.ssim import ssim_per_image


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(resolution):
    """A smooth function read at pixel centers: float64 [1, 1, R, R]."""
    y, x = grid(resolution).double().unbind(-1)
    return ((3 * y).sin() * (2 * x + 0.3).cos()).view(1, 1, resolution, resolution)


def test_agreement_is_a_psnr_at_peak_2():
    x = draw(3, 2, 5, 5).tanh()
    assert agreement(x + 0.02, x) == pytest.approx(40)
    assert agreement(x, x) == pytest.approx(10 * math.log10(4e12))
    assert agreement_per_sample(x[:, :, 0], x[:, :, 1]).shape == (3,)


def test_a_function_agrees_with_itself_across_scales():
    pairs = across_scales(wave(96), wave(32))
    assert agreement(*pairs["points"]) == pytest.approx(126.02, abs=0.01)
    assert 60 < agreement(*pairs["boxes"]) < 80  # means over cells are not quite point values
    pairs = across_scales(wave(96), F.avg_pool2d(wave(96), 3))
    assert agreement(*pairs["boxes"]) > 120 > agreement(*pairs["points"])
    shifted = wave(98)[..., 1:-1, 1:-1]
    assert agreement(*across_scales(shifted, wave(32))["points"]) < 45


def test_even_ratios_nest_nothing():
    with pytest.raises(UserError, match="not among those of"):
        across_scales(wave(64), wave(32))
    with pytest.raises(UserError, match="not among those of"):
        across_scales(wave(97), wave(32))


def test_fidelity_is_that_of_images():
    true = draw(2, 3, 16, 16).tanh()
    found = (true + 0.1 * draw(2, 3, 16, 16, seed=1)).clamp(-1, 1)
    scores = fidelity(found, true)
    images = (true + 1) / 2, (found + 1) / 2
    assert torch.equal(scores["psnr"], psnr_per_image(*images))
    assert torch.equal(scores["ssim"], ssim_per_image(*images))
    assert set(fidelity(found[..., :8], true[..., :8])) == {"psnr"}


def test_known_points_are_counted_apart():
    true = draw(2, 3, 4, 5).tanh() * 0.5
    known = torch.zeros(2, 20, dtype=torch.bool)
    known[0, :7] = known[1, 3:] = True
    mask = known.view(2, 1, 4, 5)
    found = torch.where(mask, true + 10 / 127.5, true - 20 / 127.5)  # whole grey levels
    levels = -20 * math.log10(10 / 255), -20 * math.log10(20 / 255)
    assert observed_per_sample(found, true, known).tolist() == pytest.approx(
        [levels[0]] * 2, abs=0.5
    )
    assert unobserved_per_sample(found, true, known).tolist() == pytest.approx(
        [levels[1]] * 2, abs=0.5
    )
    everything = torch.ones(2, 20, dtype=torch.bool)
    noisy = true + 0.1 * draw(2, 3, 4, 5, seed=1)
    torch.testing.assert_close(
        observed_per_sample(noisy, true, everything),
        psnr_per_image((true + 1) / 2, (noisy + 1) / 2),
    )
    with pytest.raises(UserError, match="sample 0 has no unknown point: each needs at least 1"):
        unobserved_per_sample(noisy, true, everything)
    with pytest.raises(UserError, match=r"bool \[N, L\] = \[2, 20\]"):
        observed_per_sample(noisy, true, known[:, :3])


def test_the_laplacian_against_a_loop():
    x = draw(2, 1, 5, 6)
    slow = torch.stack(
        [
            x[:, 0, i - 1, j] + x[:, 0, i + 1, j] + x[:, 0, i, j - 1] + x[:, 0, i, j + 1]
            - 4 * x[:, 0, i, j]
            for i in range(1, 4)
            for j in range(1, 5)
        ]
    )  # fmt: skip
    torch.testing.assert_close(laplacian_energy(x), slow.square().mean(0))
    line, volume = draw(2, 1, 9), draw(2, 1, 4, 5, 6)
    torch.testing.assert_close(laplacian_energy(line), line.diff(n=2).square().mean((1, 2)))
    kernel = torch.zeros(3, 3, 3, dtype=torch.float64)
    kernel[1, 1, :] = kernel[1, :, 1] = kernel[:, 1, 1] = 1
    kernel[1, 1, 1] = -6
    torch.testing.assert_close(
        laplacian_energy(volume), F.conv3d(volume, kernel[None, None]).square().mean((1, 2, 3, 4))
    )


def test_roughness_tells_wiggle_from_blur():
    true = wave(32)
    assert roughness(true, true) == pytest.approx(1)
    assert roughness(true + 0.1 * draw(1, 1, 32, 32), true) > 2
    assert roughness(0.5 * true, true) == pytest.approx(0.25)
    both = torch.cat([true, 0.1 * true])  # a nearly flat sample does not decide
    assert float(roughness_per_sample(both, both).mean()) == pytest.approx(1)
    with pytest.raises(UserError, match="flat or linear"):
        roughness(true, torch.zeros_like(true))
    with pytest.raises(UserError, match="at least 3 points"):
        roughness(true[..., :2], true[..., :2])


def test_residuals_of_blur_correlate_and_those_of_speckle_do_not():
    true = wave(64)
    speckle, missing = 0.1 * draw(1, 1, 64, 64), 0.1 * wave(64)
    ripple = 0.1 * (torch.arange(64).double() % 2 * 2 - 1).expand(1, 1, 64, 64)
    assert abs(residual_correlation(true + speckle, true)) < 0.05
    assert residual_correlation(true + missing, true) > 0.95
    assert abs(residual_correlation(true + ripple, true)) < 0.02  # -1 along, +1 across
    assert residual_correlation((true + ripple)[..., 0, :], true[..., 0, :]) < -0.98
    with pytest.raises(UserError, match="sample 0 has no error"):
        residual_correlation(true + 1, true)


def function(c):
    return torch.cat([c.sin(), c.prod(-1, keepdim=True)], -1)


def mixing(c):
    return function(c) + 0.1 * c.mean((1, 2), keepdim=True)


def following(c):
    return function(c) + 0.1 * torch.roll(c, 1, 1)[..., :1]


def test_a_function_of_the_coordinate_is_invariant_to_the_other_queries():
    c = grid(20).expand(3, -1, -1)
    rng = torch.Generator().manual_seed(0)
    found = query_invariance(function, c, rng)
    assert set(found) == {"one", "1 %", "10 %", "permuted", "repeated"}
    assert all(a.worst == 0 and a.psnr.shape == (3,) and a.psnr.min() > 126 for a in found.values())
    mixed = query_invariance(mixing, c, rng)
    assert mixed["one"].worst > 0.01 and mixed["10 %"].psnr.max() < 80
    assert mixed["permuted"].worst < 1e-6  # a mean does not see the order
    assert query_invariance(following, c, rng)["permuted"].worst > 0.01


def test_only_the_ways_asked_for_are_decoded():
    c, asked = grid(20).expand(3, -1, -1), []

    def decode(points):
        asked.append(points.shape[1])
        return mixing(points)

    all_ways = query_invariance(mixing, c, torch.Generator().manual_seed(0))
    found = query_invariance(
        decode, c, torch.Generator().manual_seed(0), ways=("10 %", "permuted"), whole=mixing(c)
    )
    assert asked == [40, 400] and list(found) == ["10 %", "permuted"]
    assert all(torch.equal(one.psnr, all_ways[way].psnr) for way, one in found.items())


def test_decoders_that_answer_something_else():
    rng = torch.Generator()
    with pytest.raises(UserError, match=r"decode gave \[1, 3, 2\] for coordinates"):
        query_invariance(lambda c: c[:, :3], grid(4)[None], rng)
    with pytest.raises(UserError, match="at least 2 points"):
        query_invariance(function, grid(1)[None], rng)
    with pytest.raises(UserError, match="NaN"):
        query_invariance(lambda c: c / 0 * 0, grid(4)[None], rng)


def test_codes_that_depend_on_where_samples_fell():
    c, v = draw(2, 64, 2).clamp(-1, 1), draw(2, 64, 3, seed=1) + 2
    rng = torch.Generator().manual_seed(0)
    mean = input_stability(lambda c, v: v.mean(1), c, v, rng)
    assert mean["permuted"].max() < 1e-12 < mean["halves"].min()
    fixed = input_stability(lambda c, v: torch.ones(2, 5), c, v, rng)
    assert all(change.tolist() == [0, 0] for change in fixed.values())
    first = input_stability(lambda c, v: v[:, 0], c, v, rng)
    assert first["permuted"].min() > 0
    with pytest.raises(UserError, match=r"zero \(collapsed\)"):
        input_stability(lambda c, v: torch.zeros(2, 5), c, v, rng)


def test_the_blend_is_straight_and_a_double_exposure():
    ends = draw(2, 4, 1, 24, 24)
    alpha = torch.linspace(0, 1, 11, dtype=torch.float64).view(1, 11, 1, 1, 1)
    blend = path_shape(torch.lerp(ends[0][:, None], ends[1][:, None], alpha))
    for value, right in ((blend.unevenness, 1), (blend.bend, 0), (blend.length, 1)):
        torch.testing.assert_close(
            value, torch.full((4,), float(right)).double(), atol=1e-9, rtol=0
        )
    torch.testing.assert_close(blend.middle_gradient, blend.blend_gradient)
    assert ((blend.blend_gradient - 0.5).abs() < 0.1).all()
    jump = torch.where(alpha < 0.55, ends[0][:, None], ends[1][:, None])
    jumped = path_shape(jump)
    assert jumped.unevenness.tolist() == pytest.approx([10] * 4)
    assert jumped.middle_gradient.min() > 0.8 > jumped.blend_gradient.max()
    arc = (alpha * math.pi).sin() * draw(4, 1, 1, 24, 24, seed=3)
    bent = path_shape(torch.lerp(ends[0][:, None], ends[1][:, None], alpha) + arc)
    assert bent.length.min() > 1.1 and bent.bend.min() > 0.05


def test_paths_that_have_no_shape():
    still = draw(1, 1, 1, 6, 6).expand(2, 5, -1, -1, -1)
    with pytest.raises(UserError, match="ends are equal"):
        path_shape(still)
    with pytest.raises(UserError, match="odd number"):
        path_shape(draw(2, 4, 1, 6, 6))
    assert gradient_energy(torch.ones(1, 1, 5)).item() == 0


def test_calibrated_draws_score_3_db_below_their_mean():
    truth, centers = draw(40, 3, 16, 16), draw(40, 3, 16, 16, seed=1)
    post = 0.3  # posterior N(center, 0.3²); the truth is one more draw of it
    truth = centers + post * truth
    draws = centers + post * torch.stack([draw(40, 3, 16, 16, seed=9 + k) for k in range(8)])
    scores = draw_scores(draws, truth)
    assert scores.expected_gain == pytest.approx(10 * math.log10(16 / 9))
    gain = scores.mean - scores.single
    assert float(gain.mean()) == pytest.approx(scores.expected_gain, abs=0.1)
    assert float(scores.spread.mean()) == pytest.approx(1, abs=0.05)
    rows = METRICS["draws_spread"].measure(
        draws.transpose(0, 1), truth, stamp=Stamp("d", 40), resamples=50
    )
    assert rows.value == pytest.approx(float(scores.spread.mean()))
    assert rows.interval is not None and rows.interval[0] < 1 < rows.interval[1]
    narrow = draw_scores(centers + 0.3 * (draws - centers), truth)
    assert narrow.spread.max() < 0.2 and (narrow.mean - narrow.single).max() < 1
    with pytest.raises(UserError, match="at least 2 draws"):
        draw_scores(draws[:1], truth)
    with pytest.raises(UserError, match=r"draws must be \[K, N"):
        draw_scores(truth, truth)
