"""U-REPA's source document, corrected (spec page 2, "Corrections to the source"): what each
correction mends, beside the uncorrected form, which fails the same demand. Others stand where
their code is tested: counts of parameters with the U-Net, the trainable part of checkpoints with
the loop."""

import pytest
import torch
import torch.nn.functional as F
from toy_denoising import CLASSES, SHAPE, TEACHER, ToyBackboneConfig, latents, normalizer

from helpers.tiny_models import WEAK, tiny_dinov2
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.objective import denoising_losses, target_of
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.encoders.dinov2 import DinoV2Config
from latentsmith.errors import UserError
from latentsmith.losses.manifold import ManifoldConfig, image_relations
from latentsmith.stores.features import pool_tokens
from latentsmith.training.task import StepContext

SD = VPPathConfig(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
"""Stable Diffusion 1.5's own schedule."""


def raster(side: int) -> torch.Tensor:
    """Tokens [1, side², 2] that say where they are: (row, column)."""
    rows, columns = torch.meshgrid(*[torch.arange(float(side))] * 2, indexing="ij")
    return torch.stack([rows, columns], -1).view(1, -1, 2)


def sheared(tokens: torch.Tensor) -> torch.Tensor:
    """The source: the first 1296 of 1369 tokens as if they were 36 rows of 36."""
    return tokens[:, :1296].view(1, 36, 36, 2).permute(0, 3, 1, 2)


def straight(grid: torch.Tensor) -> float:
    """How far rows and columns of a map [1, 2, h, w] of positions are from straight, in tokens."""
    rows, columns = grid[0]
    return float(max(rows.std(1).max(), columns.std(0).max()))


def test_patch_tokens_keep_their_place():
    pooled = pool_tokens(raster(37), (37, 37), (16, 16)).mT.unflatten(2, (16, 16))
    assert straight(pooled) < 1e-5
    torch.testing.assert_close(
        pooled, F.adaptive_avg_pool2d(raster(37).mT.unflatten(2, (37, 37)), 16)
    )
    source = F.adaptive_avg_pool2d(sheared(raster(37)), 16)
    assert straight(source) > 5, "rows and columns of the source's grid wander by many tokens"


def test_nothing_is_pooled_where_the_teacher_has_the_grid_already():
    tokens = raster(16)
    assert pool_tokens(tokens, (16, 16), (16, 16)) is tokens  # 224 pixels: 16 patches of 14


@pytest.mark.parametrize(("side", "grid"), [(518, 37), (224, 16)])
def test_transformers_dinov2_has_its_tokens_where_the_image_has_its_patches(tmp_path, side, grid):
    """Light one patch of 14 pixels: the token that changes is its own, in raster order after the
    class token, and after averaging to 16 x 16 its cell is the one it lies in."""
    source = tiny_dinov2(tmp_path, image_size=side, scale=WEAK)
    encoder = DinoV2Config(source=source, resolution=side).build()
    assert encoder.grid == (grid, grid)
    dark = torch.zeros(1, 3, side, side)
    row, column = grid // 3, grid - 2
    lit = dark.clone()
    lit[:, :, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = 1
    change = encoder(lit).tokens - encoder(dark).tokens
    assert int(change[0].norm(dim=1).argmax()) == row * grid + column
    cells = pool_tokens(change, (grid, grid), (16, 16))[0].norm(dim=1)
    assert divmod(int(cells.argmax()), 16) == (row * 16 // grid, column * 16 // grid)


def test_a_noise_network_is_judged_on_v_by_what_it_means():
    """One that is exactly right has no loss; its raw output regressed on v starts at about 1."""
    path, rng = SD.build(), torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 64, *SHAPE, generator=rng, dtype=torch.float64)
    t = path.on_grid(torch.rand(64, generator=rng, dtype=torch.float64).clamp(0.05, 0.95))
    z, v = path.mix(x, noise, t), target_of(x, noise, t, path, "v")
    right = denoising_losses(noise, v, z, t, path, "noise", "v")
    assert float(right.max()) < 1e-12
    source = (noise - v).square().mean()
    assert 0.3 < float(source) < 2


def test_the_conversion_is_the_spec_s_formula():
    """v = (ε − √(1−ᾱ) z) / √ᾱ, in float64."""
    path, rng = SD.build(), torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 8, *SHAPE, generator=rng, dtype=torch.float64)
    t = path.on_grid(torch.linspace(0.1, 0.9, 8, dtype=torch.float64))
    z = path.mix(x, noise, t)
    bar = path.alphas_cumprod[path.index(t)].view(-1, 1, 1, 1)
    by_hand = (noise - (1 - bar).sqrt() * z) / bar.sqrt()
    torch.testing.assert_close(by_hand, target_of(x, noise, t, path, "v"), rtol=1e-9, atol=1e-9)


def test_stable_diffusion_s_schedule_is_linear_in_the_root_of_beta():
    own = SD.build().alphas_cumprod
    source = VPPathConfig(schedule="linear", beta_start=0.00085, beta_end=0.012).build()
    assert float(own[-1]) == pytest.approx(0.00466, rel=1e-2)  # as in its scheduler's table
    assert float(source.alphas_cumprod[-1]) < 0.4 * float(own[-1]), "another amount of noise"


def test_an_image_is_the_mean_of_its_tokens_not_the_top_left_corner():
    rng = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 4, 9, 5, generator=rng)
    changed = student.clone()
    changed[:, 0] = torch.randn(4, 5, generator=rng)
    corner = student.clone()
    corner[:, 1:] = torch.randn(4, 8, 5, generator=rng)
    whole, one, rest = (image_relations(x, teacher) for x in (student, changed, corner))
    assert abs(whole - rest) > 3 * abs(whole - one)


def test_masking_a_zero_diagonal_changes_nothing_but_dividing_by_all_pairs_does():
    rng = torch.Generator().manual_seed(3)
    h, y = F.normalize(torch.randn(2, 6, 1, 8, generator=rng, dtype=torch.float64), dim=-1)
    off = h[:, 0] @ h[:, 0].T - y[:, 0] @ y[:, 0].T
    assert float(off.diagonal().abs().max()) < 1e-12
    torch.testing.assert_close(image_relations(h, y), off.square().sum() / 30)
    assert float(off.square().mean()) < 0.9 * float(image_relations(h, y))


def aligned(**settings) -> DiffusionTask:
    config = DiffusionConfig(
        alignment=AlignmentConfig(blocks=[2], hidden=6, manifold=ManifoldConfig()), **settings
    )
    net = ToyBackboneConfig().build(SHAPE, CLASSES)
    return DiffusionTask(net, config, normalizer(), teacher_dim=TEACHER)


def test_a_hole_in_the_cache_is_an_error_that_names_the_sample():
    """The source: a zero token's loss is 1, quietly; its "anomalies" show just that."""
    batch = latents(8)
    batch["teacher/tokens"][3, 5] = 0
    cosine = F.cosine_similarity(torch.randn(TEACHER), batch["teacher/tokens"][3, 5], dim=0)
    assert float(1 - cosine) == 1.0
    with pytest.raises(UserError, match=r"sample 103: 1 of 16 have no finite length above 0"):
        aligned()("denoiser", batch, StepContext(0, 100, seed=0))


def test_the_loss_stands_beside_that_of_saying_nothing():
    parts = aligned()("denoiser", latents(32), StepContext(0, 100, seed=0))
    assert float(parts["zero"]) > 0 and "denoising" in parts


def test_validation_sees_the_same_times_noise_and_order_every_time():
    """So its curve shows the network and not the draw; relations' value hangs on the batch."""
    task, batch = aligned(), latents(16)
    first, again = (
        task.validate(batch, StepContext(seen, 100, seed=0, fixed_noise=True)) for seen in (0, 50)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [task("denoiser", batch, StepContext(seen, 100, seed=0)) for seen in (0, 50)]
    assert not torch.equal(drawn[0]["manifold"], drawn[1]["manifold"])
