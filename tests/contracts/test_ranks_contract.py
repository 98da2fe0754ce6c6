"""Over three processes every loss of a set, every metric and every statistic is what it is in one.

Shares are unequal wherever the product's are (the last batch of a dataset, held-out batches), and
one process may have nothing.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from helpers.latent_views import PLACE, Toy, toy_view
from helpers.latent_views import batch as toy_batch
from helpers.metric_inputs import metric_inputs
from helpers.ranks import run_ranks
from helpers.stores import computing, keys_of, manifest_of, table
from helpers.text_latent import D, context, task
from latentsmith.autoencoders.normalizer import LatentMoments
from latentsmith.diffusion.text_latent.noised import Rows
from latentsmith.losses.base import LOSSES, PairLossConfig
from latentsmith.losses.manifold import ManifoldConfig
from latentsmith.losses.priors.base import PRIORS, PriorInput
from latentsmith.metrics import METRICS
from latentsmith.metrics.feature_stats import FeatureStats
from latentsmith.metrics.frechet import frechet_from_stats
from latentsmith.stores.base import open_store
from latentsmith.stores.build import build_store
from latentsmith.training.batches import shard
from latentsmith.training.metering import Meter
from latentsmith.training.task import StepContext
from latentsmith.training.team import Team
from latentsmith.utils.distributed import gather_rows, sum_over_ranks

WORLD = 3
DISTANCES = ("flat", "pooled", "tokens")
PAIRS = [e.name for e in LOSSES if issubclass(e.config, PairLossConfig) and e.name != "none"]
MEANS = [e.name for e in LOSSES if not issubclass(e.config, PairLossConfig)]
SETS = [e.name for e in PRIORS if e.name not in ("none", "diffusion")]
"""Priors of a set. ``diffusion`` is a mean over predictions, each with noise of its own; what opens
its gate is `gate`."""
REFERENCES = {
    "moments": ("batch", "data"),
    "mmd": ("batch", "data"),
    "sliced_w2": ("batch", "data"),
}
SHARES = {"last batch": [4, 4, 5], "one has none": [5, 0, 8]}

Share = Any
"""Rows of all → those of this process."""
Result = tuple[Tensor, Tensor]
"""Loss, and its gradient averaged over processes as data parallelism does."""


def part(sizes: list[int], rank: int) -> Share:
    start = sum(sizes[:rank])
    return lambda x: x[start : start + sizes[rank]]


def everything(x: Tensor) -> Tensor:
    return x


def result(loss: Tensor, params: Any) -> Result:
    """``loss`` and the mean over processes of its gradient."""
    params = list(params)
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    pairs = zip(params, grads, strict=True)
    flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])
    world = dist.get_world_size() if dist.is_initialized() else 1
    return loss.detach(), sum_over_ranks(flat) / world


# Losses -------------------------------------------------------------------------------------------


def view_of(name: str, count: int, share: Share, **settings: Any) -> Result:
    """A registered regularizer on this process's share of ``count`` images."""
    toy, term = Toy().double(), LOSSES[name].config(**settings).regularizer(PLACE).double()
    data = {key: share(value) for key, value in toy_batch(count).items()}
    loss, _ = term(toy_view(toy, data))
    return result(loss, [*toy.encoder.parameters(), *term.parameters()])


def relations(share: Share) -> Result:
    """Relations between images (U-REPA)."""
    toy, data = Toy().double(), toy_batch(13)
    tokens = toy.encoder(share(data["image"])).flatten(2).mT
    return result(ManifoldConfig().loss(tokens, share(data["tokens"])), toy.encoder.parameters())


def prior(name: str, reference: str, share: Share, rank: int) -> Result:
    """A prior of a set of predicted latents, some of which have a true one."""
    t = task(prior=PRIORS[name].config(reference=reference, weight=1.0))
    rng = torch.Generator().manual_seed(4)
    x, z = (torch.randn(13, D, generator=rng) for _ in range(2))
    weight = torch.eye(D).requires_grad_()
    has = torch.arange(13) % 3 > 0
    rows = Rows(*(share(v) for v in (torch.zeros(13, 1).long(), x, has | True, has)))
    for _ in range(2):  # the second time with what the queue kept of the first
        loss, _ = t._judged(rows, share(z) @ weight, context())
    return result(loss, [weight])


def gate(share: Share) -> dict[str, Tensor]:
    """What the diffusion prior's gate has counted after two batches; in one nobody has a latent."""
    prior, rng = PRIORS["diffusion"].config(weight=1.0), torch.Generator().manual_seed(6)
    t = task("l2t+t2l+unconditional", prior=prior)
    for has in (torch.arange(13) > 6, torch.zeros(13) > 0, torch.arange(13) % 2 > 0):
        x, noise = (torch.randn(13, D, generator=rng) for _ in range(2))
        seen = PriorInput(share(x), share(has), t.model, lambda name: rng)
        t.prior._watch(seen, share(torch.linspace(0.1, 0.9, 13)), share(noise))
    return {"errors": t.prior.errors, "trivial": t.prior.trivial}


def losses(sizes: list[int] | None, rank: int = 0) -> dict[str, Result]:
    """Everything on shares of ``sizes`` of 13; None: alone on all of it."""
    share = everything if sizes is None else part(sizes, rank)
    found = {
        f"{name} {distance}": view_of(name, 13, share, distance=distance)
        for name in PAIRS
        for distance in DISTANCES
    }
    found["relations"] = relations(share)
    for name in SETS:
        for reference in REFERENCES[name]:
            found[f"{name} {reference}"] = prior(name, reference, share, rank)
    return found


def means(share: Share) -> dict[str, Result]:
    """Losses that are means over samples, of equal shares, as training deals them."""
    return {name: view_of(name, 12, share) for name in MEANS}


# Metrics and statistics ---------------------------------------------------------------------------


def gathered(name: str, rank: int) -> tuple[list[Any], list[Any]]:
    """A metric's inputs, and the same put together from unequal shares."""
    inputs = metric_inputs(name)
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    cut = part([len(tensors[0]) - 7, 0, 7] if len(tensors[0]) > 7 else [1, 0, 3], rank)
    joined = [gather_rows(cut(x)) if isinstance(x, Tensor) else x for x in inputs]
    return inputs, joined


def statistics(share: Share, rank: int, world: int, folder: Path) -> dict[str, Any]:
    """All that is gathered in pieces."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(29, 6, generator=rng) + 100
    maps = torch.randn(29, 4, 3, 3, generator=rng) * torch.tensor([1.0, 2, 3, 4])[:, None, None]
    moments = LatentMoments()
    if len(share(maps)):
        moments.update(share(maps), share(maps).square())
    parts: list[Any] = [moments]
    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, moments)
    whole = LatentMoments()
    for some in parts:
        whole.merge(some)
    real = FeatureStats.of(x + x.roll(1, 0), "net")
    stats = FeatureStats(6, "net").update(share(x)).all_reduce()
    known = table(29, "float32")
    build_store(
        folder, manifest_of(known), keys_of(29), computing(known, {3: "broken"}), batch_size=2,
        rank=rank, world_size=world, rows_per_shard=4,
    )  # fmt: skip
    store = open_store(folder)
    return {
        "features": (stats.n, stats.mean, stats.cov),
        "fd": frechet_from_stats(stats, real),
        "moments": (whole.count, whole.mean, whole.std()),
        "store": store.manifest.to_json(),
        "rows": store.gather(torch.tensor([0, 28, 13])),
        "stored": store.statistics,
    }


def validated(team: Team) -> dict[str, float]:
    """A held-out batch of 13, shared as the loop shares it, scored as a mean over samples."""
    x = torch.arange(13.0).square()
    own = shard({"index": torch.arange(13), "x": x}, team.rank, team.world_size)
    meter = Meter()
    meter.add("x", own["x"].mean(), len(own["index"]))
    return meter.flush(team)


# Together -----------------------------------------------------------------------------------------


def work(rank: int, world: int, folder: str) -> dict[str, Any]:
    sizes = [10, 0, 19]
    metrics = {}
    for number, name in enumerate(METRICS.names()):
        inputs, joined = gathered(name, rank)
        for mine, whole in zip(joined, inputs, strict=True):
            assert mine is whole or torch.equal(mine, whole), name
        if number % world == rank:  # all hold the same rows: one says what they come to
            metrics[name] = METRICS[name](*joined)
    return {
        "losses": {label: losses(shares, rank) for label, shares in SHARES.items()},
        "means": means(part([4, 4, 4], rank)),
        "metrics": metrics,
        "statistics": statistics(part(sizes, rank), rank, world, Path(folder) / "store"),
        "gate": gate(part([5, 0, 8], rank)),
        "validated": validated(Team(None, torch.device("cpu"), rank, world)),
    }


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return run_ranks(work, WORLD, str(tmp_path_factory.mktemp("three")))


def assert_equal(found: Result, wanted: Result, name: str) -> None:
    exact = 1e-9 if wanted[0].dtype == torch.float64 else 1e-4
    assert found[0] == pytest.approx(float(wanted[0]), rel=exact), name
    off = (found[1] - wanted[1]).norm() / wanted[1].norm()
    assert wanted[1].norm() > 1e-9 and off < 10 * exact, f"{name}: gradient off by {off:.1e}"


@pytest.mark.parametrize("label", SHARES)
def test_every_loss_over_a_set(three, label):
    alone = losses(None)
    assert set(alone) == set(three[0]["losses"][label])
    for name, wanted in alone.items():
        for found in three:
            assert_equal(found["losses"][label][name], wanted, f"{label}, {name}")


def test_the_gate_of_a_prior_opens_for_all_or_for_none(three):
    wanted = gate(everything)
    assert wanted["trivial"] > 0
    for found in three:
        torch.testing.assert_close(found["gate"], wanted)


def test_every_loss_that_is_a_mean_over_samples(three):
    for name, wanted in means(everything).items():
        value = torch.stack([found["means"][name][0] for found in three]).mean()
        assert_equal((value, three[0]["means"][name][1]), wanted, name)


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric(three, name):
    """Of rows that lay with three processes: the same rows in the same order, so the same bits."""
    wanted = METRICS[name](*metric_inputs(name))
    assert [found["metrics"][name] for found in three if name in found["metrics"]] == [wanted]


def test_every_statistic(three, tmp_path):
    wanted = statistics(everything, 0, 1, tmp_path / "store")
    for found in (result["statistics"] for result in three):
        assert found["features"][0] == wanted["features"][0] == 29
        for name in ("features", "moments"):
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=1e-12)
        assert found["fd"] == pytest.approx(wanted["fd"], rel=1e-9)
        assert found["store"] == wanted["store"] and found["stored"] == wanted["stored"]
        torch.testing.assert_close(found["rows"], wanted["rows"], rtol=0, atol=0)


def test_a_held_out_batch_counts_every_sample_once(three):
    whole = torch.arange(13.0).square().mean()
    assert all(found["validated"] == pytest.approx({"x": float(whole)}) for found in three)


def test_unequal_shares_without_the_gather_are_another_number():
    """Were this equal, the tests above would show nothing."""
    local = [view_of("pearson", 13, part([5, 4, 4], k), gather=False)[0] for k in range(WORLD)]
    assert abs(torch.stack(local).mean() - view_of("pearson", 13, everything)[0]) > 1e-3


def test_a_process_without_texts_takes_part_in_a_prior():
    """Its step must meet the others' gathers; alone it has nothing to say."""
    t = task("t2l", prior=PRIORS["moments"].config(weight=1.0, warmup=0.0, ramp=0.0))
    rows = Rows(
        *(x[:0] for x in (torch.zeros(1, 8).long(), torch.zeros(1, D))),
        *[torch.zeros(0).bool()] * 2,
    )
    loss, parts = t._judged(rows, t._no_guess(rows), StepContext(0, 1, seed=0))
    loss.backward()
    assert float(loss) == 0 and float(parts["guess_power"]) == 0
