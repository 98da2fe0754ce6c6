"""Two passes over micro-batches give the large batch's gradient in a micro-batch's memory."""

import dataclasses

import pytest
import torch
from torch import nn

from latentsmith.losses.base import LOSSES
from latentsmith.training.gradcache import cache_gradients
from latentsmith.training.task import StepContext

BATCH = 32


def context(micros):
    return StepContext(samples_seen=640, total_samples=10_000, seed=3, micros=micros)


class Encoder(nn.Module):
    """Images → latents [B, 4, 4, 4], with sampling noise and (optionally) dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 4, 3, stride=2, padding=1),
        )

    def forward(self, images, noise=None):
        z = self.body(images)
        return z if noise is None else z + 0.3 * noise.to(z)


def batch(dtype):
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 3, 16, 16, generator=rng, dtype=torch.float64).to(dtype)
    return images, torch.randn(BATCH, 8, generator=rng, dtype=torch.float64).to(dtype)


def noise(ctx, rows):
    """What this micro-batch draws, the same in both passes."""
    return torch.randn(rows, 4, 4, 4, generator=ctx.noise("posterior"), dtype=torch.float64)


def encode(net):
    return lambda micro, ctx: net(micro["image"], noise(ctx, len(micro["image"])))


def split(images, references, micros):
    chunks = zip(images.chunk(micros), references.chunk(micros), strict=True)
    return [{"image": a, "reference": b} for a, b in chunks]


def gradients(net):
    return torch.cat([p.grad.flatten().double() for p in net.parameters()])


def two_passes(net, loss, micro_batches, ctx, *, replay=False):
    """As a task and the loop do it; returns (value logged, gradients)."""
    n = len(micro_batches)
    references = torch.cat([m["reference"] for m in micro_batches])
    cache = cache_gradients(micro_batches, encode(net), lambda z: loss(z, references), ctx)
    logged = 0.0
    for k, micro in enumerate(micro_batches):
        own = dataclasses.replace(ctx, micro=k)
        if replay:
            with cache.replay(k):
                z = encode(net)(micro, own)
        else:
            z = encode(net)(micro, own)
        value = cache.surrogate(z, own.micro)
        logged += value.item() / n
        (value / n).backward()
    return logged, gradients(net)


def one_pass(net, loss, micro_batches, ctx):
    """The joined batch at once, with the noise that the micro-batches would draw."""
    z = torch.cat(
        [encode(net)(m, dataclasses.replace(ctx, micro=k)) for k, m in enumerate(micro_batches)]
    )
    value = loss(z, torch.cat([m["reference"] for m in micro_batches]))
    value.backward()
    return value.item(), gradients(net)


@pytest.mark.parametrize("micros", [1, 4, 32])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_gradient_is_that_of_the_large_batch(dtype, limit, micros):
    loss = LOSSES["pearson"].config().build()
    parts = split(*batch(dtype), micros)
    value, grad = two_passes(Encoder().to(dtype), loss, parts, context(micros))
    expected_value, expected = one_pass(Encoder().to(dtype), loss, parts, context(micros))
    assert (grad - expected).norm() < limit * expected.norm()
    assert value == pytest.approx(expected_value, rel=limit * 10)


@pytest.mark.parametrize("name", [e.name for e in LOSSES if e.config.reads_vectors])
def test_every_loss(name):
    loss = LOSSES[name].config().build()
    parts = split(*batch(torch.float64), 4)
    _, grad = two_passes(Encoder().double(), loss, parts, context(4))
    _, expected = one_pass(Encoder().double(), loss, parts, context(4))
    assert (grad - expected).norm() < 1e-12 * expected.norm()


def test_plain_accumulation_is_something_else():
    """Were this equal, the tests above would show nothing."""
    loss = LOSSES["pearson"].config().build()
    parts = split(*batch(torch.float64), 4)
    net = Encoder().double()
    for k, m in enumerate(parts):
        own = dataclasses.replace(context(4), micro=k)
        (loss(encode(net)(m, own), m["reference"]) / 4).backward()
    _, expected = one_pass(Encoder().double(), loss, parts, context(4))
    assert torch.cosine_similarity(gradients(net), expected, dim=0) < 0.98


def test_micro_batches_of_unequal_size():
    images, references = batch(torch.float64)
    loss = LOSSES["pearson"].config().build()
    cuts = [10, 10, 12]
    parts = [
        {"image": a, "reference": b}
        for a, b in zip(images.split(cuts), references.split(cuts), strict=True)
    ]
    _, grad = two_passes(Encoder().double(), loss, parts, context(3))
    _, expected = one_pass(Encoder().double(), loss, parts, context(3))
    assert (grad - expected).norm() < 1e-12 * expected.norm()


def test_dropout_is_replayed():
    loss = LOSSES["pearson"].config().build()
    parts = split(*batch(torch.float64), 4)
    ctx = context(4)
    torch.manual_seed(5)
    _, grad = two_passes(Encoder(0.3).double().train(), loss, parts, ctx, replay=True)
    torch.manual_seed(5)  # Encoder() draws too, but from its own fixed seed
    _, expected = one_pass(Encoder(0.3).double().train(), loss, parts, ctx)
    assert (grad - expected).norm() < 1e-12 * expected.norm()


def test_replay_leaves_the_generators_outside_alone():
    parts = split(*batch(torch.float32), 2)
    net = Encoder()
    cache = cache_gradients(parts, encode(net), lambda z: z.sum(), context(2))
    before = torch.get_rng_state()
    with cache.replay(1):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoding_that_differs_is_refused():
    loss = LOSSES["pearson"].config().build()
    parts = split(*batch(torch.float32), 4)
    with pytest.raises(RuntimeError, match=r"second encoding of micro-batch 0 differs.*ctx\.noise"):
        two_passes(Encoder(0.5).train(), loss, parts, context(4))
    cache = cache_gradients(parts, encode(Encoder()), lambda z: z.square().sum(), context(4))
    with pytest.raises(
        RuntimeError, match=r"encoded to \[8, 4, 4, 4\] at first and to \[7, 4, 4, 4\]"
    ):
        cache.surrogate(cache.latents[0][:7], 0)


def test_gradients_of_half_precision_latents_are_float32():
    parts = split(*batch(torch.float32), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = cache_gradients(
            parts,
            lambda micro, ctx: Encoder()(micro["image"]).bfloat16(),
            lambda z: z.square().mean(),
            context(4),
        )
        latents = cache.latents[0].clone().requires_grad_()
        cache.surrogate(latents, 0).backward()
    assert cache.latents[0].dtype == torch.bfloat16
    assert cache.gradients[0].dtype == torch.float32
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, (4 * cache.gradients[0]).bfloat16())


def test_both_passes_inside_one_autocast():
    """Autocast keeps cast weights; made without graph (torch < 2.10) they took the gradient."""
    loss = LOSSES["pearson"].config().build()
    parts = split(*batch(torch.float32), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, grad = two_passes(Encoder(), loss, parts, context(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, expected = one_pass(Encoder(), loss, parts, context(4))
    assert torch.cosine_similarity(grad, expected, dim=0) > 0.999
    assert (grad - expected).norm() < 0.05 * expected.norm()


class Saved:
    """Bytes that autograd holds for backward, now and at most."""

    def __init__(self):
        self.now = self.most = 0

    def watch(self):
        def pack(t):
            size = t.nbytes
            self.now += size
            self.most = max(self.most, self.now)
            return Held(self, t, size)

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor)


class Held:
    def __init__(self, account, tensor, size):
        self.account, self.tensor, self.size = account, tensor, size

    def __del__(self):
        self.account.now -= self.size


def test_memory_is_that_of_a_micro_batch():
    loss = LOSSES["pearson"].config().build()
    parts = split(*batch(torch.float32), 8)
    peaks = {}
    for name, run, chosen in (
        ("micro", one_pass, parts[:1]),
        ("cached", two_passes, parts),
        ("whole", one_pass, parts),
    ):
        saved = Saved()
        with saved.watch():
            run(Encoder(), loss, chosen, context(len(chosen)))
        assert saved.now == 0
        peaks[name] = saved.most
    # the loss itself holds the joined latents (as given and centred) and two B × B matrices
    pairs = 4 * (2 * BATCH * 64 + 2 * BATCH**2) + 1000
    assert peaks["cached"] <= peaks["micro"] + pairs
    assert peaks["whole"] > 5 * peaks["cached"]
