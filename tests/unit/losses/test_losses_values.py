"""Each pair loss against its formula and against SciPy, in float64; invariances; edge cases."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, rankdata, spearmanr

from latentsmith.errors import UserError
from latentsmith.losses.base import CollapseWarning, PairLossConfig
from latentsmith.losses.correlation import CorrelationLoss, PearsonConfig, ZScoreMSEConfig
from latentsmith.losses.none import NoneConfig
from latentsmith.losses.raw_mse import RawMSEConfig
from latentsmith.losses.si_huber import SiHuberConfig
from latentsmith.losses.spearman import SpearmanConfig, soft_ranks

ALL = [
    PearsonConfig(),
    SiHuberConfig(),
    SiHuberConfig(detach_scale=False, anchor_weight=0.1),
    SpearmanConfig(),
    ZScoreMSEConfig(),
    RawMSEConfig(),
]
SCALE_FREE = [
    PearsonConfig(),
    SiHuberConfig(detach_scale=False),
    SpearmanConfig(),
    ZScoreMSEConfig(),
]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(config, z, r):
    z = z.clone().requires_grad_()
    loss = config.build()(z, r)
    return loss.detach(), torch.autograd.grad(loss, z)[0]


@pytest.fixture
def latents():
    return draw(24, 4, 3, 3)


@pytest.fixture
def references():
    return draw(24, 10, seed=1)


@pytest.fixture
def distances(latents, references):
    """SciPy's [P] and [P]."""
    return pdist(latents.flatten(1).numpy()), pdist(references.numpy())


# ---- values -------------------------------------------------------------------------------------


def test_pearson_equals_scipy(latents, references, distances):
    expected = 1 - pearsonr(*distances).statistic
    assert PearsonConfig().build()(latents, references).item() == pytest.approx(expected, abs=1e-12)


def test_pearson_ends_of_its_range(latents, references):
    loss = PearsonConfig().build()
    assert loss(latents, latents.flatten(1)).item() == pytest.approx(0, abs=1e-12)
    line = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 3, 2
    mirrored = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 0.0]])  # 3, 1, 2
    assert loss(mirrored, line).item() == pytest.approx(2, abs=1e-6)


def test_zscore_mse_equals_its_definition(latents, references, distances):
    a, b = ((x - x.mean()) / x.std() for x in distances)
    expected = ((a - b) ** 2).mean()
    assert ZScoreMSEConfig().build()(latents, references).item() == pytest.approx(expected)


def test_raw_mse_equals_its_definition(latents, references, distances):
    d, r = distances
    assert RawMSEConfig().build()(latents, references).item() == pytest.approx(
        ((d - r) ** 2).mean()
    )


@pytest.mark.parametrize("delta", [0.05, 1.0])
def test_si_huber_equals_its_definition(latents, references, distances, delta):
    d, r = (x / x.mean() for x in distances)
    e = np.abs(d - r)
    expected = np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)).mean()
    loss = SiHuberConfig(delta=delta).build()
    assert loss(latents, references).item() == pytest.approx(expected)


def test_spearman_at_low_temperature_equals_scipy(latents, references, distances):
    expected = 1 - spearmanr(*distances).statistic
    loss = SpearmanConfig(temperature=1e-6).build()
    assert loss(latents, references).item() == pytest.approx(expected, abs=1e-6)


def test_spearman_at_high_temperature_is_pearson(latents, references):
    spearman = value_and_gradient(SpearmanConfig(temperature=100), latents, references)
    pearson = value_and_gradient(PearsonConfig(), latents, references)
    torch.testing.assert_close(spearman, pearson, rtol=1e-9, atol=1e-12)


def test_soft_ranks_with_ties_equal_scipy():
    x = torch.tensor([3.0, 1.0, 3.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(soft_ranks(x, 1e-6), torch.from_numpy(rankdata(x)) - 0.5)


@pytest.mark.parametrize("h", [0.03, 0.5, 5.0])
def test_soft_ranks_equal_the_double_sum(h):
    x = draw(50).requires_grad_()
    weight = draw(50, seed=1)
    ours = soft_ranks(x, h)
    brute = ((x[:, None] - x[None]) / (2 * h) + 0.5).clamp(0, 1).sum(1)
    torch.testing.assert_close(ours, brute, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), x)[0],
        torch.autograd.grad((brute * weight).sum(), x)[0],
        rtol=1e-10,
        atol=1e-10,
    )


def test_spearman_memory_is_linear_in_the_pairs():
    """B = 256 is 32,640 pairs: a P × P array would be 8.5 GB."""
    saved = []
    z, r = torch.randn(256, 16, requires_grad=True), torch.randn(256, 4)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.nbytes) or t, lambda t: t
    ):
        loss = SpearmanConfig().build()(z, r)
    assert sum(saved) < 40 * 8 * 32_640
    assert torch.autograd.grad(loss, z)[0].abs().sum() > 0


def test_none_is_zero_for_any_batch():
    z = torch.full((1, 4), torch.inf, requires_grad=True)
    loss = NoneConfig().build()(z, torch.zeros(1, 2))
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None and z.grad.abs().max() == 0


# ---- which distance -----------------------------------------------------------------------------


def test_pooled_and_token_distances(latents, references, distances):
    _, r = distances
    pooled = pdist(latents.mean((2, 3)).numpy())
    tokens = np.mean([pdist(latents[:, :, i, j]) for i in range(3) for j in range(3)], axis=0)
    for name, d in (("pooled", pooled), ("tokens", tokens)):
        loss = PearsonConfig(distance=name).build()(latents, references)
        assert loss.item() == pytest.approx(1 - pearsonr(d, r).statistic, abs=1e-12), name


@pytest.mark.parametrize("distance", ["pooled", "tokens"])
def test_distance_over_space_needs_space(distance):
    with pytest.raises(UserError, match=rf"loss.distance={distance} needs latents \[B, C, H, W\]"):
        PearsonConfig(distance=distance).build()(draw(4, 6), draw(4, 2))


# ---- gradients and invariances ------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["flat", "pooled", "tokens"])
@pytest.mark.parametrize(
    "config",
    [PearsonConfig, ZScoreMSEConfig, RawMSEConfig, SpearmanConfig, SiHuberConfig],
    ids=lambda c: c.kind,
)
def test_gradcheck(config, distance):
    settings = {"detach_scale": False} if config is SiHuberConfig else {}
    loss = config(distance=distance, **settings).build()
    r = draw(6, 5, seed=1)
    z = draw(6, 2, 2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, r), (z,))


def test_si_huber_detached_scale_is_the_gradient_at_fixed_scale(latents, references, distances):
    d, r = (torch.from_numpy(x) for x in distances)
    _, ours = value_and_gradient(SiHuberConfig(), latents, references)
    z = latents.clone().requires_grad_()
    i, j = torch.triu_indices(24, 24, 1)
    flat = z.flatten(1)
    dz = (flat[i] - flat[j]).square().sum(1).sqrt()
    loss = torch.nn.functional.huber_loss(dz / d.mean(), r / r.mean())
    torch.testing.assert_close(ours, torch.autograd.grad(loss, z)[0], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("config", SCALE_FREE, ids=lambda c: c.kind)
def test_scale_free_losses(config, latents, references):
    loss, grad = value_and_gradient(config, latents, references)
    scaled, _ = value_and_gradient(config, latents * 37.0, references * 0.01)
    assert scaled.item() == pytest.approx(loss.item(), rel=1e-9)
    assert abs((grad * latents).sum()) < 1e-12 * grad.norm() * latents.norm()


def test_the_source_form_of_si_huber_is_not_scale_free(latents, references):
    _, grad = value_and_gradient(SiHuberConfig(), latents, references)
    assert abs((grad * latents).sum()) > 1e-3 * grad.norm() * latents.norm()


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
def test_moving_and_turning_all_points_changes_nothing(config, latents, references):
    loss, grad = value_and_gradient(config, latents, references)
    assert grad.sum(0).abs().max() < 1e-12 * grad.norm()
    turn = torch.linalg.qr(draw(36, 36, seed=5))[0]
    moved = latents.flatten(1) @ turn + 11
    assert value_and_gradient(config, moved, references)[0].item() == pytest.approx(
        loss.item(), rel=1e-9
    )


def test_pearson_gradient_of_a_large_float32_batch():
    z, r = draw(600, 40, dtype=torch.float32), draw(600, 20, seed=1, dtype=torch.float32)
    z[5] = z[400]  # exact duplicates
    loss, grad = value_and_gradient(PearsonConfig(), z, r)
    exact, exact_grad = value_and_gradient(PearsonConfig(), z.double(), r.double())
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)
    assert (grad - exact_grad).norm() < 2e-5 * exact_grad.norm()


# ---- edge cases of the spec ---------------------------------------------------------------------


def edge_cases():
    z, r = draw(12, 4, 2, 2, dtype=torch.float32), draw(12, 6, seed=1, dtype=torch.float32)
    twins = z.clone()
    twins[3] = twins[8]
    yield "coincident points", twins, r
    yield "coincident references", z, r[[0, 0, 0, *range(3, 12)]]
    yield "all latents coincide", z[:1].expand_as(z), r
    yield "constant references", z, r[:1].expand_as(r)
    yield "everything constant", torch.ones_like(z), torch.ones_like(r)
    yield "B = 2", z[:2], r[:2]
    yield "B = 2, coincident", z[[0, 0]], r[:2]
    yield "equidistant latents", torch.eye(12), r
    yield "bf16 latents", z.bfloat16(), r
    yield "bf16 both", z.bfloat16(), r.bfloat16()
    yield "fp16 latents", (z * 300).half(), r
    yield "latents × 1e6", z * 1e6, r
    yield "latents × 1e-6", z * 1e-6, r
    yield "references × 1e6", z, r * 1e6
    yield "references × 1e-6", z, r * 1e-6
    yield "far from zero", z + 1e4, r - 1e4


@pytest.mark.filterwarnings("ignore::latentsmith.losses.base.CollapseWarning")
@pytest.mark.parametrize("distance", ["flat", "tokens"])
@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
def test_edge_cases_are_finite(config, distance):
    config = type(config)(**{**vars(config), "distance": distance})
    for name, z, r in edge_cases():
        if distance == "tokens" and z.ndim < 3:
            continue
        loss, grad = value_and_gradient(config, z, r)
        assert loss.isfinite(), name
        assert grad.isfinite().all(), name
        assert loss.dtype == torch.float32, name
        assert grad.dtype == z.dtype, name


@pytest.mark.parametrize("config", SCALE_FREE, ids=lambda c: c.kind)
def test_extreme_scales_change_neither_loss_nor_direction(config):
    z, r = draw(32, 4, 3, 3, dtype=torch.float32), draw(32, 6, seed=1, dtype=torch.float32)
    loss, grad = value_and_gradient(config, z, r)
    for scale in (1e-6, 1e6):
        scaled, scaled_grad = value_and_gradient(config, z * scale, r)
        assert scaled.item() == pytest.approx(loss.item(), abs=2e-5)
        a, b = (g.double() / g.double().norm() for g in (scaled_grad, grad))
        assert (a * b).sum() > 0.9999


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
def test_one_sample_is_a_clear_error(config):
    with pytest.raises(UserError, match="got a batch of 1: it needs at least 2"):
        config.build()(draw(1, 4), draw(1, 2))


def test_batches_must_match():
    with pytest.raises(ValueError, match="6 latents against 5 references"):
        PearsonConfig().build()(draw(6, 4), draw(5, 2))


@pytest.mark.parametrize("config", [PearsonConfig(), SpearmanConfig()], ids=lambda c: c.kind)
@pytest.mark.parametrize("side", ["latents", "references"])
def test_collapse_gives_loss_one_and_gradient_zero(config, side):
    z, r = draw(12, 6, dtype=torch.float32), draw(12, 3, seed=1, dtype=torch.float32)
    if side == "latents":
        z = torch.eye(12)  # all distances √2 up to rounding
    else:
        r = torch.eye(12)
    with pytest.warns(CollapseWarning, match=f"distances between the {side} of a batch"):
        loss, grad = value_and_gradient(config, z, r)
    assert loss.item() == 1
    assert grad.abs().max() == 0


def test_collapse_is_counted_and_reported_at_powers_of_ten():
    loss = CorrelationLoss()
    z, r = torch.ones(4, 3), draw(4, 3, dtype=torch.float32)
    with pytest.warns(CollapseWarning) as record:
        for _ in range(25):
            loss(z, r)
    assert loss.collapses == 25
    messages = [str(w.message) for w in record]
    assert [m.split("Batches so far: ")[1] for m in messages] == ["1.", "10."]
    loss(draw(4, 3), r)
    assert loss.collapses == 25


def test_small_spread_is_not_collapse():
    """A standard deviation of 1e-4 of the mean is rare but real."""
    z = torch.eye(8) * (1 + 1e-4 * draw(8, 1, dtype=torch.float32))
    loss = CorrelationLoss()
    assert loss(z, z.double().float()).item() < 1e-3
    assert loss.collapses == 0


def test_not_finite_latents_give_a_not_finite_loss():
    """The loop's guard must see them."""
    z = draw(8, 6)
    z[2, 1] = torch.nan
    for config in ALL:
        assert not config.build()(z, draw(8, 3)).isfinite(), config.kind


# ---- settings -----------------------------------------------------------------------------------


def test_weight_ramp():
    config = PairLossConfig(kind="pearson", weight=2.0, ramp=0.25)
    assert [config.weight_at(p) for p in (0, 0.125, 0.25, 1)] == [0, 1, 2, 2]
    assert PairLossConfig(kind="pearson", weight=2.0).weight_at(0) == 2
    falling = PairLossConfig(kind="pearson", weight=2.0, ramp=0.25, final=0.5)
    assert [falling.weight_at(p) for p in (0, 0.25, 0.5, 1)] == [0, 1.75, 1.5, 1]


def test_anchor_holds_the_scale_of_the_first_batch():
    loss = SiHuberConfig(anchor_weight=1.0).build()
    free = SiHuberConfig().build()
    z, r = draw(12, 6), draw(12, 3, seed=1)
    assert loss(z, r).item() == pytest.approx(free(z, r).item())  # the first batch sets it
    drifted = (2 * z).requires_grad_()
    value = loss(drifted, r)
    assert value.item() == pytest.approx(free(z, r).item() + np.log(2) ** 2)
    pull = torch.autograd.grad(value - free(drifted, r), drifted)[0]
    assert (pull * z).sum() > 0  # downhill is smaller
    restored = SiHuberConfig(anchor_weight=1.0).build()
    restored.load_state_dict(loss.state_dict())
    assert restored(2 * z, r).item() == pytest.approx(value.item())


def test_given_anchor():
    z, r = draw(12, 6), draw(12, 3, seed=1)
    mean = pdist(z.numpy()).mean()
    loss = SiHuberConfig(anchor_weight=0.5, anchor=3 * mean).build()
    expected = SiHuberConfig().build()(z, r).item() + 0.5 * np.log(3) ** 2
    assert loss(z, r).item() == pytest.approx(expected)


def test_anchor_without_weight_is_refused():
    with pytest.raises(ValueError, match="no effect without anchor_weight"):
        SiHuberConfig(anchor=1.0)
