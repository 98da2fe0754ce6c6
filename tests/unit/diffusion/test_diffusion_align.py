"""Alignment inside the diffusion task: heads, blocks, weights, relations, micro-batches."""

import pytest
import torch
import torch.nn.functional as F
from toy_denoising import CLASSES, SHAPE, TEACHER, ToyBackboneConfig, latents, normalizer

from latentsmith.diffusion.align import Aligner, AlignmentConfig
from latentsmith.diffusion.align_head import TimeShift, TokenProjector
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.errors import UserError
from latentsmith.losses.alignment import token_cosine
from latentsmith.losses.manifold import ManifoldConfig, image_relations, token_relations
from latentsmith.training.task import StepContext


def tokens(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def task(**alignment):
    net = ToyBackboneConfig().build(SHAPE, CLASSES)
    settings = {"blocks": [2], "hidden": 6} | alignment
    config = DiffusionConfig(alignment=AlignmentConfig(**settings), label_dropout=0.0)
    return DiffusionTask(net, config, normalizer(), teacher_dim=TEACHER)


def context(seen=50, **more):
    return StepContext(seen, 100, seed=5, **more)


def seen_by(t, batch, ctx):
    """(parts, output with all taps, times) of one step."""
    t.backbone.seen.clear()
    parts = t("denoiser", batch, ctx)
    z, times, condition = t.backbone.seen[0]
    return parts, t.backbone(z, times, condition, taps=(1, 2)), times


# Heads -------------------------------------------------------------------------------------------


def test_projector():
    net = TokenProjector(6, 4, hidden=10, layers=3, seed=1)
    shapes = [tuple(p.shape) for p in net.parameters()]
    assert shapes == [(10, 6), (10,), (10, 10), (10,), (4, 10), (4,)]
    x = tokens(2, 5, 6, dtype=torch.float32)
    first, second, third = (m for m in net.net if isinstance(m, torch.nn.Linear))
    want = third(F.silu(second(F.silu(first(x)))))
    torch.testing.assert_close(net(x), want)
    same = TokenProjector(6, 4, hidden=10, layers=3, seed=1)
    other = TokenProjector(6, 4, hidden=10, layers=3, seed=2)
    assert torch.equal(net(x), same(x)) and not torch.equal(net(x), other(x))
    assert [tuple(p.shape) for p in TokenProjector(6, 4, layers=1).parameters()] == [(4, 6), (4,)]


def test_align_head_of_the_source_has_its_parameters():
    """Conv 1x1 with bias, GELU, conv 1x1 without: 2,360,320 for SD-1.5 and DINOv2-L."""
    with torch.device("meta"):
        head = TokenProjector(1280, 1024, hidden=1024, layers=2, activation="gelu", last_bias=False)
    assert sum(p.numel() for p in head.parameters()) == 2_360_320


def test_align_head_is_the_source_s_convolutions():
    head = TokenProjector(6, 5, hidden=5, layers=2, activation="gelu", last_bias=False).double()
    maps = tokens(2, 6, 3, 4)
    first, _, last = head.net
    convs = F.gelu(F.conv2d(maps, first.weight[..., None, None], first.bias))
    convs = F.conv2d(convs, last.weight[..., None, None])
    torch.testing.assert_close(
        head(maps.flatten(2).transpose(1, 2)), convs.flatten(2).transpose(1, 2)
    )


def test_time_head_starts_as_the_identity_and_learns_time():
    shift, x = TimeShift(4), tokens(2, 3, 4, dtype=torch.float32)
    t = torch.tensor([0.1, 0.9])
    assert torch.equal(shift(x, t), x)
    shift(x, t).square().sum().backward()
    assert shift.modulation.weight.grad is not None and shift.modulation.weight.grad.any()
    with torch.no_grad():
        shift.modulation.weight.add_(0.1)
    assert not torch.allclose(shift(x, t), shift(x, t.flip(0)))


# Weights -----------------------------------------------------------------------------------------


def test_the_weight_may_rise_fall_and_stop():
    assert AlignmentConfig().weight_at(1.0) == AlignmentConfig().weight_at(0.0) == 0.5
    early = AlignmentConfig(weight=2.0, stop=0.25)
    assert [early.weight_at(p) for p in (0.0, 0.24, 0.25, 1.0)] == [2.0, 2.0, 0.0, 0.0]
    rising = AlignmentConfig(ramp=0.5)
    assert [rising.weight_at(p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.25, 0.5, 0.5]
    falling = AlignmentConfig(final=0.5)
    assert [falling.weight_at(p) for p in (0.0, 0.5, 1.0)] == [0.5, 0.375, 0.25]


def test_the_source_s_ramp():
    """0 to 0.5 over 3,000 of 62,480 steps."""
    config = AlignmentConfig(weight=0.5, ramp=3000 / 62480)
    for step, want in ((0, 0.0), (750, 0.125), (1500, 0.25), (3000, 0.5), (62480, 0.5)):
        assert config.weight_at(step / 62480) == pytest.approx(want)


# Blocks ------------------------------------------------------------------------------------------


def test_several_blocks_have_heads_of_their_own_and_share_the_weight():
    t, batch = task(blocks=[1, 2]), latents(8)
    parts, out, _ = seen_by(t, batch, context())
    teacher = batch["teacher/tokens"]
    each = [
        1 - token_cosine(head(out.hidden[tap]), teacher).mean()
        for head, tap in zip(t.aligner.heads, (1, 2), strict=True)
    ]
    torch.testing.assert_close(parts["alignment"], (each[0] + each[1]).detach() / 2)
    first, second = (head.net[0].weight for head in t.aligner.heads)
    assert not torch.equal(first, second)


def test_blocks_that_are_not_there_or_named_twice_are_refused():
    with pytest.raises(UserError, match=r"blocks has 3, and the network's blocks are 1 … 2"):
        task(blocks=[3])
    with pytest.raises(ValueError, match=r"blocks \[1, 1\] names a block twice"):
        AlignmentConfig(blocks=[1, 1])


def test_hidden_width_of_the_teacher():
    t = task(hidden=None, layers=2, activation="gelu", last_bias=False)
    first, activation, last = t.aligner.heads[0].net
    assert first.out_features == last.in_features == last.out_features == TEACHER
    assert isinstance(activation, torch.nn.GELU) and last.bias is None


# Relations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["images", "tokens", "both"])
def test_relations_join_with_their_weight(scope):
    t, batch = task(manifold=ManifoldConfig(weight=2.0, scope=scope)), latents(8)
    parts, out, _ = seen_by(t, batch, context())
    student, teacher = t.aligner.heads[0](out.hidden[2]), batch["teacher/tokens"]
    images, inside = image_relations(student, teacher), token_relations(student, teacher).mean()
    want = {"images": images, "tokens": inside, "both": images + inside}[scope].detach()
    torch.testing.assert_close(parts["manifold"], want)
    total = parts["denoising"] + 0.5 * (parts["alignment"] + 2 * want)
    torch.testing.assert_close(parts["loss"].detach(), total)


def test_a_cap_holds_the_total_and_the_log_tells_the_truth():
    free, capped = task(manifold=ManifoldConfig()), task(manifold=ManifoldConfig(cap=1e-3))
    a, b = (t("denoiser", latents(8), context()) for t in (free, capped))
    assert float(a["manifold"]) > 1e-3 and torch.equal(a["manifold"], b["manifold"])
    off = float(a["loss"].detach() - b["loss"].detach())
    assert off == pytest.approx(0.5 * 3 * (float(a["manifold"]) - 1e-3), rel=1e-4)


def gradients(t, batch, ctx, micros):
    parts = [{name: value.chunk(micros)[k] for name, value in batch.items()} for k in range(micros)]
    t.zero_grad()
    if micros > 1:
        t.look_ahead("denoiser", parts, context(micros=micros))
    found = []
    for k, part in enumerate(parts):
        out = t("denoiser", part, context(micro=k, micros=micros))
        (out["loss"] / micros).backward()
        found.append(out)
    return torch.cat([p.grad.flatten() for p in t.parameters()]), found


def test_relations_reach_across_micro_batches():
    """The gradient of the whole batch's relations, not of each micro-batch's own."""
    manifold = ManifoldConfig(weight=50.0)
    t, batch = task(manifold=manifold, weight=1.0), latents(8)
    parts = [{n: v.chunk(2)[k] for n, v in batch.items()} for k in range(2)]
    got, found = gradients(t, batch, context(), 2)

    t.zero_grad()  # by hand: both micro-batches on one graph
    students, teachers, rest = [], [], []
    for k, part in enumerate(parts):
        ctx = context(micro=k, micros=2)
        shown, _ = t._shown(part, ctx)
        out = t.backbone(shown.z, shown.t, shown.condition, taps=(2,))
        students.append(t.aligner.heads[0](out.hidden[2]))
        teachers.append(part["teacher/tokens"])
        losses, _ = t._denoising(out.sample, shown)
        rest.append(losses.mean() + (1 - token_cosine(students[-1], teachers[-1])).mean())
    whole = image_relations(torch.cat(students), torch.cat(teachers))
    (sum(rest) / 2 + 50 * whole).backward()
    want = torch.cat([p.grad.flatten() for p in t.parameters()])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[0]["manifold"], whole.detach())

    def own():
        t.zero_grad()
        for k, part in enumerate(parts):
            t._cache = None
            (t("denoiser", part, context(micro=k, micros=2))["loss"] / 2).backward()
        return torch.cat([p.grad.flatten() for p in t.parameters()])

    assert (own() - want).norm() > 0.05 * want.norm(), "else the test above shows nothing"


def test_no_second_encoding_where_nothing_is_joint():
    for t, ctx in (
        (task(), context(micros=2)),
        (task(manifold=ManifoldConfig(scope="tokens")), context(micros=2)),
        (task(manifold=ManifoldConfig(), stop=0.5), context(seen=60, micros=2)),
    ):
        t.backbone.seen.clear()
        t.look_ahead("denoiser", [latents(4), latents(4)], ctx)
        assert t.backbone.seen == [] and t._cache is None


def test_every_cell_of_the_feature_map_gets_gradient():
    """A class token as teacher, or features pooled before comparing, reach a few or all alike."""
    t = task(manifold=ManifoldConfig(scope="both"))
    hidden = tokens(4, 16, 8, dtype=torch.float32).requires_grad_()
    teacher = tokens(4, 64, TEACHER, seed=1, dtype=torch.float32)  # 8 x 8: upsampled
    student = [F.interpolate(t.aligner.heads[0](hidden).mT.unflatten(2, (4, 4)), (8, 8),
                             mode="bilinear").flatten(2).mT]  # fmt: skip
    t.aligner.token_loss(student, teacher).mean().backward()
    assert hidden.grad is not None
    cells = hidden.grad.norm(dim=2)
    assert bool((cells > 0.05 * cells.mean()).all())


def test_validation_gives_relations_too():
    t, batch = task(manifold=ManifoldConfig()), latents(16)
    parts = t.validate(batch, context(fixed_noise=True))
    assert {"alignment", "manifold"} <= set(parts) and 0 < float(parts["manifold"]) < 4


def test_a_task_without_tokens_in_its_settings_has_no_aligner():
    net = ToyBackboneConfig().build(SHAPE, CLASSES)
    assert DiffusionTask(net, DiffusionConfig(), normalizer()).aligner is None
    aligner = Aligner(AlignmentConfig(blocks=[1]), net, TEACHER)
    assert aligner.taps == (1,) and not aligner.joint
