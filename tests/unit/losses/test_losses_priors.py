"""Priors on predicted latents: 0 for what is distributed alike, above chance for what is not."""

from contextlib import nullcontext

import pytest
import torch

from helpers.text_latent import D, L, batch, context, model, network, rng, task
from latentsmith.backbones.mmdit import MMDiTConfig
from latentsmith.errors import UserError
from latentsmith.losses.priors.base import PRIORS, PriorInput
from latentsmith.losses.priors.diffusion import DiffusionPriorConfig
from latentsmith.losses.priors.mmd import MMDConfig, kernel, unbiased_mmd
from latentsmith.losses.priors.moments import MomentsConfig
from latentsmith.losses.priors.null import null_quantile
from latentsmith.losses.priors.reference import LatentReference
from latentsmith.losses.priors.sliced_w2 import SlicedW2Config, squared_w2

N = 256
SPREADS = torch.linspace(0.3, 2.0, D)


def draws(count, seed, spreads=SPREADS):
    return torch.randn(count, D, generator=rng(seed)) * spreads + 0.3


REFERENCE = LatentReference.fit(draws(4000, 50), 6)
STANDARD = LatentReference.fit(torch.randn(4000, D, generator=rng(51)), 6)


def seen(count=N, seed=1, **more):
    settings = {"has": torch.ones(count, dtype=torch.bool), "model": model()} | more
    return PriorInput(draws(count, seed), noise=context().noise, **settings)


OF_SETS = {
    "moments/batch": MomentsConfig(reference="batch"),
    "moments/data": MomentsConfig(reference="data", queue=0),
    "sliced_w2/batch": SlicedW2Config(),
    "sliced_w2/data": SlicedW2Config(reference="data"),
    "mmd/batch": MMDConfig(),
    "mmd/data": MMDConfig(reference="data"),
}
WRONG = {
    "shifted": lambda z: z + 1.0,
    "scaled": lambda z: 0.5 * z,
    "collapsed": lambda z: z.mean(0).expand_as(z) + 1e-3 * z,
}


def test_every_prior_is_tested():
    assert set(PRIORS.names()) == {"none", "moments", "sliced_w2", "mmd", "diffusion"}


@pytest.mark.parametrize("name", OF_SETS)
def test_alike_is_chance_and_different_is_not(name):
    prior = OF_SETS[name].build(REFERENCE, model())
    alike = [prior(draws(N, 2 + k), seen(seed=20 + k)) for k in range(6)]
    floor = torch.tensor(0.04)  # of two sets' moments at 256 samples
    chance = float(torch.stack([a.parts.get("prior_null", floor) for a in alike]).mean())
    assert float(torch.stack([a.loss for a in alike]).mean()) < chance
    for wrong in WRONG.values():
        value = prior(wrong(draws(N, 2)), seen())
        assert float(value.loss) > 3 * chance


@pytest.mark.parametrize("name", OF_SETS)
def test_gradient_goes_the_right_way(name):
    prior = OF_SETS[name].build(REFERENCE, model())
    z = WRONG["shifted"](draws(N, 2)).requires_grad_(True)
    prior(z, seen()).loss.backward()
    assert z.grad is not None and z.grad.isfinite().all()
    assert z.grad.mean() > 0
    far = float(prior(z.detach(), seen()).loss)
    assert float(prior((z - 200 * z.grad).detach(), seen()).loss) < far


def test_moments_by_hand():
    prior = MomentsConfig().build(None, model())
    guess, data = torch.randn(2, 30, D, generator=rng(), dtype=torch.float64)
    at = PriorInput(data, torch.arange(30) % 2 == 0, model(), context().noise)
    own, true = guess[::2].numpy(), data[::2].numpy()
    expected = ((own.mean(0) - true.mean(0)) ** 2).mean() + ((own.std(0) - true.std(0)) ** 2).mean()
    assert float(prior(guess, at).loss) == pytest.approx(expected, rel=1e-9)


def test_a_collapsed_set_has_a_finite_gradient():
    z = torch.zeros(N, D, requires_grad=True)
    for config in OF_SETS.values():
        value = config.build(REFERENCE, model())(z, seen()).loss
        (grad,) = torch.autograd.grad(value, z)
        assert grad.isfinite().all()


def test_a_queue_makes_a_few_samples_many():
    values = {}
    for queue in (0, 512):
        prior = MomentsConfig(reference="data", queue=queue).build(REFERENCE, model())
        words = r"moments of 32 latents are mostly noise"
        with nullcontext() if queue else pytest.warns(UserWarning, match=words):
            for step in range(20):
                z = draws(32, 100 + step).requires_grad_(True)
                value = prior(z, seen(32))
        value.loss.backward()
        assert z.grad.any()
        values[queue] = float(value.loss.detach())
    assert values[512] < 0.3 * values[0]
    assert int(prior.filled) == 640 and prior.queue.shape == (512, D)
    before = prior.queue.clone()
    prior(draws(32, 5), seen(32, training=False))
    assert torch.equal(prior.queue, before), "validation leaves no trace"


def test_normal_is_for_normalized_latents():
    prior = MomentsConfig(reference="normal", queue=0).build(STANDARD, model())
    assert float(prior(torch.randn(N, D, generator=rng(3)), seen()).loss) < 0.03
    with pytest.raises(UserError, match=r"have not mean 0 and spread 1.*prior.reference=data"):
        MomentsConfig(reference="normal").build(REFERENCE, model())
    for config in (MomentsConfig(reference="data"), SlicedW2Config(), MMDConfig()):
        with pytest.raises(UserError, match=r"LatentReference\.fit"):
            config.build(None, model())


def test_squared_w2_is_scipys():
    from scipy.stats import wasserstein_distance_nd

    a, b = torch.randn(2, 12, 1, generator=rng(), dtype=torch.float64)
    # by hand: the best matching on a line is in order
    best = (a.sort(0).values - b.sort(0).values).square().mean()
    assert float(squared_w2(a, b)) == pytest.approx(float(best))
    shift = float(squared_w2(a, a + 2.0)) ** 0.5
    assert shift == pytest.approx(wasserstein_distance_nd(a.numpy(), (a + 2).numpy()), rel=1e-6)


def test_mmd_is_the_naive_sum_and_unbiased():
    k = kernel(torch.randn(10, 3, generator=rng(), dtype=torch.float64))
    n, total = 5, 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += k[i, j] + k[n + i, n + j] - k[i, n + j] - k[j, n + i]
    assert float(unbiased_mmd(k)) == pytest.approx(float(total) / (n * (n - 1)))
    values = torch.tensor(
        [float(unbiased_mmd(kernel(torch.randn(40, 3, generator=rng(s))))) for s in range(200)]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / 200**0.5
    assert (values < 0).any()


def test_null_is_what_chance_gives():
    points = torch.randn(80, generator=rng())

    def gap(order):
        first, second = points[order].chunk(2)
        return (first.mean() - second.mean()).square()

    null = float(null_quantile(gap, 80, rng(1)))
    assert 0.5 * 3.84 / 20 < null < 2 * 3.84 / 20  # 0.95 of chi-squared times variance 2/40


def test_reference_finds_the_main_directions():
    from sklearn.decomposition import PCA

    x = draws(500, 4)
    reference = LatentReference.fit(x, 4)
    pca = PCA(4).fit(x.double().numpy())
    cosines = (reference.components.double().numpy() * pca.components_).sum(1)
    assert abs(abs(cosines) - 1).max() < 1e-4
    projected = reference.project(x)
    assert float(projected.var(0, correction=0).mean()) == pytest.approx(1, rel=1e-4)
    assert len(LatentReference.fit(draws(5000, 5), 4).rows) == 4096
    with pytest.raises(UserError, match="2 latents says nothing"):
        LatentReference.fit(x[:2])
    with pytest.raises(UserError, match="are the same"):
        LatentReference.fit(torch.ones(10, D))


# The diffusion prior ------------------------------------------------------------------------------


def test_gate_opens_for_a_denoiser_that_is_better_than_shrinking(monkeypatch):
    m = model()
    for good in (False, True):
        prior = DiffusionPriorConfig().build(None, m)
        at = seen(model=m)

        def judged(known, z, t, good=good, at=at):
            return at.data[: len(z)] if good else torch.zeros_like(z)

        monkeypatch.setattr(prior, "_denoised", judged)
        z = draws(N, 2).requires_grad_(True)
        value = prior(z, at)
        assert (float(value.parts["prior_gate"]) < 1) == good
        value.loss.backward()
        assert bool(z.grad.any()) == good


def test_sds_moves_the_guess_towards_the_denoiser_and_the_denoiser_not_at_all():
    for gradient in ("sds", "full"):
        m = model(network().double())
        prior = DiffusionPriorConfig(gradient=gradient).build(None, m)
        prior.average.update(m.network)
        prior.errors.zero_()  # open
        z = draws(8, 2).double().requires_grad_(True)
        at = PriorInput(z.detach(), torch.zeros(8).bool(), m, context().noise)
        prior(z, at).loss.backward()
        assert all(p.grad is None for p in m.network.parameters())
        rate = torch.rand(8, generator=context().noise("time"))
        t = 0.02 + 0.96 * rate
        noise = torch.randn(8, D, generator=context().noise("noise"))
        seen_z = m.path.mix(z.detach(), noise, t)
        with torch.no_grad():
            said = m.data(m.absent_text(8), seen_z, torch.ones(8), t)
        angle = t.double() * torch.pi / 2
        w = (angle.cos() / angle.sin()).square().clamp(max=5)
        expected = w[:, None] * (z.detach() - said) / D / 8
        assert torch.allclose(z.grad, expected, rtol=1e-3, atol=1e-5) == (gradient == "sds")


def test_the_judge_is_an_average_that_is_saved_and_takes_no_gradient():
    from latentsmith.training.parts import saved_buffers, trainable

    config = DiffusionPriorConfig(weight=0.1, warmup=0.0, ramp=0.0)
    t = task("l2t+t2l+unconditional", prior=config)
    average = t.prior.average
    saved = saved_buffers(t)
    assert any(n.startswith("prior.average.") for n in saved)
    assert not any(n.startswith("prior.") for n in trainable(t))
    first = {n: v.clone() for n, v in average.weights().items()}
    with torch.no_grad():
        for p in t.network.parameters():
            p.add_(1.0)
    for n in range(3):
        t("text_latent", batch(), context(16 * n))["loss"].backward()
    assert int(average.updates) == 3
    name = "embedding.weight"
    moved = (average.weights()[name] - first[name]).mean()
    assert float(moved) == pytest.approx(1.0, abs=1e-5), "the first update takes all of it"
    before = int(average.updates)
    t.validate(batch(), context(fixed_noise=True))
    assert int(average.updates) == before


def test_the_diffusion_prior_costs_two_looks_more():
    config = DiffusionPriorConfig(weight=0.1, warmup=0.0, ramp=0.0)
    t = task("l2t+t2l+unconditional", prior=config, t2l2t={"weight": 1.0})
    parts = t("text_latent", batch(), context())
    assert float(parts["forwards"]) == 3 + 2 + 2
    assert set(parts) >= {"prior", "prior_gate", "guess_power"}
    assert MMDiTConfig().size == "tiny" and L == 8
