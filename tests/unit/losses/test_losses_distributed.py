"""Real processes: loss and gradient equal those of one process on the joined batch."""

import pytest
import torch
from torch import nn

from helpers.ranks import run_ranks
from latentsmith.errors import UserError
from latentsmith.losses.base import LOSSES
from latentsmith.losses.hybrid import HybridPairLoss
from latentsmith.losses.manifold import ManifoldConfig
from latentsmith.training.gradcache import cache_gradients
from latentsmith.training.task import StepContext
from latentsmith.utils.distributed import gather_with_grad, rank, world_size

BATCH = 12
NAMES = [e.name for e in LOSSES if e.config.reads_vectors]
DISTANCES = ["flat", "tokens"]


def data():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 4, 3, 3, generator=rng, dtype=torch.float64)
    return x, torch.randn(BATCH, 7, generator=rng, dtype=torch.float64)


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 1, bias=False)
    ).double()


def own(x, rank, world):
    each = len(x) // world
    return x[rank * each : (rank + 1) * each]


def parameter_gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def one_pass(loss, net, x, r):
    """(loss, parameter gradients) by a plain backward."""
    value = loss(net(x), r)
    value.backward()
    return value.detach(), parameter_gradients(net.module if hasattr(net, "module") else net)


def two_passes(loss, net, x, r, micros=2):
    """The same through the gradient cache, dividing as the loop does."""
    batches = [{"x": a, "r": b} for a, b in zip(x.chunk(micros), r.chunk(micros), strict=True)]
    ctx = StepContext(samples_seen=0, total_samples=1, seed=0, micros=micros)
    cache = cache_gradients(batches, lambda b, c: net(b["x"]), lambda z: loss(z, r), ctx)
    for k, batch in enumerate(batches):
        # DDP would average at each of the two backwards; a sum of averages is the average of sums
        (cache.surrogate(net(batch["x"]), k) / micros).backward()
    return cache.loss, parameter_gradients(net.module if hasattr(net, "module") else net)


def hybrid():
    losses = HybridPairLoss(LOSSES["pearson"].config().build(), {"a": 0.7, "b": 0.3})
    return lambda z, r: losses(z, {"a": r, "b": r[:, :3]})[0]


def manifold():
    """Relations between images, tokens of the map against others of the reference's."""
    return lambda z, r: ManifoldConfig().loss(z.flatten(2).mT, r[:, :6].unflatten(1, (3, 2)))


def ddp(net):
    return nn.parallel.DistributedDataParallel(net)


def all_losses():
    for name in NAMES:
        for distance in DISTANCES:
            yield f"{name}-{distance}", LOSSES[name].config(distance=distance).build()
    yield "hybrid", hybrid()
    yield "manifold", manifold()


def unequal(rank, world):
    """Each rank's error text for samples of 5 and 6 numbers."""
    with pytest.raises(UserError) as error:
        gather_with_grad(torch.zeros(4, 5 + rank))
    return str(error.value)


def gather_alone(rank, world):
    x = torch.full((2, 3), float(rank), dtype=torch.float64).requires_grad_()
    joined = gather_with_grad(x)
    weight = torch.arange(joined.numel(), dtype=torch.float64).view_as(joined) + 100 * rank
    (grad,) = torch.autograd.grad((joined * weight).sum(), x)
    half = gather_with_grad(x.detach().bfloat16().T)  # not contiguous
    return {"joined": joined.detach(), "grad": grad, "half": half, "rank": rank_and_world()}


def rank_and_world():
    return rank(), world_size()


def work(rank, world):
    x, r = (own(t, rank, world) for t in data())
    out = {"gather": gather_alone(rank, world), "unequal": unequal(rank, world)}
    for name, loss in all_losses():
        out[name] = one_pass(loss, ddp(network()), x, r)
        out[f"cached {name}"] = two_passes(loss, ddp(network()), x, r)
    local = LOSSES["pearson"].config(gather=False).build()
    out["local"] = local(network()(x), r).detach()
    return out


@pytest.fixture(scope="module")
def two():
    return run_ranks(work, 2)


def expected(loss):
    return one_pass(loss, network(), *data())


def check_losses(results, prefix=""):
    for name, loss in all_losses():
        value, grad = expected(loss)
        assert grad.norm() > 1e-6
        for result in results:
            torch.testing.assert_close(result[prefix + name][0], value, rtol=1e-10, atol=1e-12)
            off = (result[prefix + name][1] - grad).norm() / grad.norm()
            assert off < 1e-10, f"{prefix}{name}: gradient off by {off:.1e}"


def test_two_processes_equal_one(two):
    check_losses(two)


def test_two_processes_with_gradient_cache_equal_one(two):
    check_losses(two, "cached ")


def test_local_pairs_are_another_objective(two):
    """Were this equal, the tests above would show nothing."""
    whole, _ = expected(LOSSES["pearson"].config().build())
    x, r = data()
    loss = LOSSES["pearson"].config(gather=False).build()
    for k, result in enumerate(two):
        part = loss(network()(own(x, k, 2)), own(r, k, 2))
        torch.testing.assert_close(result["local"], part.detach())
        assert abs(part - whole) > 1e-3


def test_gather_joins_in_order_of_rank_and_sums_gradients(two):
    for k, result in enumerate(two):
        gather = result["gather"]
        assert gather["rank"] == (k, 2)
        assert gather["joined"][:, 0].tolist() == [0, 0, 1, 1]
        assert gather["half"].dtype == torch.bfloat16
        assert gather["half"][:, 0].tolist() == [0, 0, 0, 1, 1, 1]
        summed = 2 * torch.arange(12, dtype=torch.float64).view(4, 3) + 100  # both ranks' weights
        assert torch.equal(gather["grad"], summed[2 * k : 2 * k + 2])


def test_unequal_samples_are_refused_on_every_rank(two):
    for result in two:
        assert "samples of unequal size ([5, 6] numbers each, in order of rank" in result["unequal"]


def test_alone_gather_is_the_identity():
    x = torch.randn(3, 2)
    assert gather_with_grad(x) is x
    assert rank_and_world() == (0, 1)


def fail(rank, world):
    assert rank == 0, "this rank is meant to fail"


@pytest.mark.slow
def test_the_helper_reports_a_failing_rank():
    with pytest.raises(AssertionError, match=r"(?s)rank 1 failed.*this rank is meant to fail"):
        run_ranks(fail, 2)
