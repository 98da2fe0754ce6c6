"""What the diffusion task shows its network, and what it makes of the answer."""

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter
from toy_denoising import CLASSES, SHAPE, TEACHER, ToyBackboneConfig, latents, normalizer

from latentsmith.backbones.base import BACKBONES
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.config import DiffusionConfig
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.diffusion.times import TimeConfig
from latentsmith.diffusion.variational import bound
from latentsmith.diffusion.vp import VPPathConfig
from latentsmith.errors import UserError
from latentsmith.losses.alignment import to_grid, token_cosine
from latentsmith.training.task import StepContext

VP = VPPathConfig(timesteps=20, beta_end=0.3)


def task(classes=CLASSES, backbone=None, latent="sample", **settings):
    net = ToyBackboneConfig(**(backbone or {})).build(SHAPE, classes)
    config = DiffusionConfig(latent=latent, **settings)
    return DiffusionTask(net, config, normalizer(latent), teacher_dim=TEACHER)


def context(seen=0, total=100, **more):
    return StepContext(seen, total, seed=5, **more)


def shown(t, batch, ctx=None):
    """(z, t, condition) the network saw in one training step, and the step's parts."""
    t.backbone.seen.clear()
    parts = t("denoiser", batch, ctx or context())
    (seen,) = t.backbone.seen
    return *seen, parts


# What the network is shown -----------------------------------------------------------------------


def test_the_loss_is_the_textbooks():
    """Flow matching on normalized samples of the posterior, from the named streams."""
    t, ctx = task(label_dropout=0.0), context(seen=32)
    batch = latents(64)
    z, times, condition, parts = shown(t, batch, ctx)
    draw = torch.randn(64, *SHAPE, generator=ctx.noise("posterior"))
    raw = batch["mean"] + (0.5 * batch["logvar"]).exp() * draw
    x = t.input.normalizer.normalize(raw)
    e = torch.randn(64, *SHAPE, generator=ctx.noise("noise"))
    s = times.view(-1, 1, 1, 1)
    torch.testing.assert_close(z, (1 - s) * x + s * e)
    assert torch.equal(condition["label"], batch["label"])
    with torch.no_grad():
        want = (t.backbone(z, times, condition).sample - (e - x)).square().mean()
    torch.testing.assert_close(parts["loss"].detach(), want)
    torch.testing.assert_close(parts["denoising"], want)
    torch.testing.assert_close(parts["zero"], (e - x).square().mean())
    assert abs(x.std() - 1) < 0.1


def test_times_and_noise_do_not_depend_on_the_latents():
    first, second = latents(8), latents(8, seed=9)
    second["logvar"] = second["logvar"] + 1
    one = shown(task(), first)
    two = shown(task(latent="mode", backbone={"init_seed": 3}), second)
    assert torch.equal(one[1], two[1])
    assert torch.equal(one[2]["label"] == CLASSES, two[2]["label"] == CLASSES)
    mode = task(latent="mode")
    noises = [
        (z - (1 - t).view(-1, 1, 1, 1) * mode.input.normalizer.normalize(b["mean"]))
        / t.view(-1, 1, 1, 1)
        for b in (first, second)
        for z, t, _, _ in [shown(mode, b)]
    ]
    torch.testing.assert_close(*noises, rtol=1e-3, atol=1e-3)


def test_a_step_is_a_function_of_the_context():
    t, batch = task(alignment=AlignmentConfig(blocks=[1], hidden=6)), latents(8)
    first, again = shown(t, batch, context(8)), shown(t, batch, context(8))
    assert torch.equal(first[0], again[0]) and first[3]["loss"] == again[3]["loss"]
    for other in (context(16), context(8, rank=1, world_size=2), context(8, micro=1, micros=2)):
        assert not torch.equal(first[0], shown(t, batch, other)[0])


def test_modes_and_stored_latents():
    batch = latents(32)
    only = {"index": batch["index"], "label": batch["label"], "latent": batch["mean"].half()}
    for given in (batch, only):
        t = task(latent="mode", label_dropout=0.0, times=TimeConfig(high=1e-6))
        z, *_ = shown(t, given)
        want = t.input.normalizer.normalize(batch["mean"])
        torch.testing.assert_close(z, want, rtol=2e-3, atol=2e-3)
        assert z.dtype == torch.float32
    with pytest.raises(UserError, match=r"does not hold its moments.*use latent=mode"):
        task()("denoiser", only, context())
    with pytest.raises(UserError, match="the batch holds index, label, and no latents"):
        task()("denoiser", {k: batch[k] for k in ("index", "label")}, context())


def test_each_sample_is_mirrored_half_of_the_time():
    batch = latents(256)
    del batch["teacher/tokens"]
    batch |= {f"{k}_flipped": batch[k].flip(-1) for k in ("mean", "logvar")}
    settings = {"latent": "mode", "label_dropout": 0.0, "times": TimeConfig(high=1e-6)}
    t = task(**settings)
    z, *_ = shown(t, batch)
    plain, mirrored = (t.input.normalizer.normalize(batch[k]) for k in ("mean", "mean_flipped"))
    is_plain = (z - plain).abs().amax((1, 2, 3)) < 1e-4
    is_mirrored = (z - mirrored).abs().amax((1, 2, 3)) < 1e-4
    assert (is_plain ^ is_mirrored).all()
    assert 0.4 < is_plain.double().mean() < 0.6
    # the very samples whose teacher tokens are the mirrored image's
    assert torch.equal(is_mirrored, t.input.flips(batch, context().noise))
    torch.testing.assert_close(
        shown(task(**settings, flip=False), batch)[0], plain, atol=1e-4, rtol=0
    )
    t.backbone.seen.clear()
    t.validate(batch, context(fixed_noise=True))
    torch.testing.assert_close(t.backbone.seen[0][0], plain, atol=1e-4, rtol=0)
    with_teacher = batch | {"teacher/tokens": latents(256)["teacher/tokens"]}
    aligned = task(**settings, alignment=AlignmentConfig(blocks=[1], hidden=6))
    with pytest.raises(UserError, match="mirrored copies and the token store does not"):
        aligned("denoiser", with_teacher, context())
    mine = with_teacher["teacher/tokens"]
    chosen = aligned.aligner.teacher(
        with_teacher | {"teacher/tokens_flipped": -mine}, torch.arange(256) < 3
    )
    assert torch.equal(chosen[:3], -mine[:3]) and torch.equal(chosen[3:], mine[3:])


def test_labels_are_dropped_as_often_as_asked():
    batch = latents(2000)
    batch["label"] %= CLASSES
    label = shown(task(label_dropout=0.25), batch)[2]["label"]
    dropped = label == CLASSES
    assert 0.2 < dropped.double().mean() < 0.3
    assert torch.equal(label[~dropped], batch["label"][~dropped])
    t = task(label_dropout=1.0)
    t.backbone.seen.clear()
    t.validate(batch, context(fixed_noise=True))
    assert torch.equal(t.backbone.seen[0][2]["label"], batch["label"])


def test_networks_with_and_without_classes():
    batch = latents(16)
    assert shown(task(classes=None), batch)[2] == {}
    del batch["label"]
    assert shown(task(classes=None), batch)[2] == {}
    with pytest.raises(UserError, match="the batch has no 'label'"):
        task()("denoiser", batch, context())


def test_latents_of_the_wrong_scale_are_refused_at_the_first_batch():
    t = task()
    wrong = latents(64)
    wrong["mean"] = wrong["mean"] * 1.6
    with pytest.raises(UserError, match="standard deviation"):
        t("denoiser", wrong, context())
    t("denoiser", latents(64), context())
    t("denoiser", wrong, context())  # later batches cost nothing


# What it makes of the answer ---------------------------------------------------------------------


@pytest.mark.parametrize("predicts", ["noise", "data", "v", "velocity"])
def test_the_objective_is_apart_from_what_the_network_says(predicts):
    settings = {"path": VP, "label_dropout": 0.0, "times": TimeConfig(stratified=True)}
    t = task(backbone={"predicts": predicts}, objective="v", **settings)
    batch = latents(16)
    z, times, condition, parts = shown(t, batch)
    a, s = (f(times).view(-1, 1, 1, 1) for f in (t.path.alpha, t.path.sigma))
    e = torch.randn(16, *SHAPE, generator=context().noise("noise"))
    x = (z - s * e) / a
    with torch.no_grad():
        said = t.denoiser()(z, times, condition).v()
    want = (said - (a * e - s * x)).square().mean()
    torch.testing.assert_close(parts["loss"].detach(), want, rtol=1e-4, atol=1e-4)


def test_min_snr_in_the_task():
    t = task(
        backbone={"predicts": "data"}, objective="data", path=VP, weighting="min_snr", gamma=2.0
    )
    z, times, condition, parts = shown(t, latents(16))
    a, s = (f(times).view(-1, 1, 1, 1) for f in (t.path.alpha, t.path.sigma))
    e = torch.randn(16, *SHAPE, generator=context().noise("noise"))
    x = (z - s * e) / a
    weight = (a / s).square().clamp(max=2.0)
    with torch.no_grad():
        want = (weight * (t.backbone(z, times, condition).sample - x).square()).mean()
    torch.testing.assert_close(parts["loss"].detach(), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts["zero"], (weight * x.square()).mean(), rtol=1e-4, atol=1e-4)


def test_learned_variance_joins_with_its_weight():
    net = {"predicts": "noise", "variance": True}
    t = task(backbone=net, objective="noise", path=VP, label_dropout=0.0, variance_weight=0.01)
    z, times, condition, parts = shown(t, latents(16))
    out = t.backbone(z, times, condition)
    a, s = (f(times).view(-1, 1, 1, 1) for f in (t.path.alpha, t.path.sigma))
    e = torch.randn(16, *SHAPE, generator=context().noise("noise"))
    guess = (z - s * out.sample) / a
    want = bound(guess, out.variance, (z - s * e) / a, z, times, t.path).mean()
    torch.testing.assert_close(parts["variance"], want.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        parts["loss"].detach(), parts["denoising"] + 0.01 * parts["variance"]
    )
    off = task(backbone=net, objective="noise", path=VP, variance_weight=0.0)
    assert "variance" not in off("denoiser", latents(16), context())
    with pytest.raises(UserError, match=r"use path=vp, build the network with learn_sigma=false"):
        task(backbone={"variance": True})("denoiser", latents(16), context())


@pytest.mark.parametrize("side", [4, 8, 2])
def test_alignment_joins_with_its_weight(side):
    config = AlignmentConfig(blocks=[2], hidden=6, weight=0.7, stop=0.5)
    t = task(alignment=config, label_dropout=0.0)
    batch = latents(16)
    rng = torch.Generator().manual_seed(2)
    batch["teacher/tokens"] = torch.randn(16, side**2, TEACHER, generator=rng)
    z, times, condition, parts = shown(t, batch)
    hidden = t.backbone(z, times, condition, taps=(2,)).hidden[2]
    student = to_grid(t.aligner.heads[0](hidden), (4, 4), (side, side))
    want = 1 - token_cosine(student, batch["teacher/tokens"]).mean()
    torch.testing.assert_close(parts["alignment"], want.detach())
    torch.testing.assert_close(parts["loss"].detach(), (parts["denoising"] + 0.7 * want).detach())

    late = t("denoiser", batch, context(50))
    assert "alignment" not in late and torch.equal(late["loss"].detach(), late["denoising"])
    late["loss"].backward()
    for p in t.aligner.parameters():  # data parallelism waits for every gradient
        assert p.grad is not None and not p.grad.any()


def test_alignment_refuses_what_it_cannot_use():
    config = AlignmentConfig(blocks=[1], hidden=6)
    t, batch = task(alignment=config), latents(8)
    bad = batch | {"teacher/tokens": batch["teacher/tokens"].clone()}
    bad["teacher/tokens"][3, 2] = 0
    with pytest.raises(UserError, match="sample 103"):
        t("denoiser", bad, context())
    with pytest.raises(UserError, match=r"no 'teacher/tokens'.*alignment=null"):
        t("denoiser", {k: v for k, v in batch.items() if k != "teacher/tokens"}, context())
    with pytest.raises(UserError, match=r"built for \[B, N, 5\]"):
        t("denoiser", batch | {"teacher/tokens": torch.randn(8, 16, 6)}, context())
    strict = task(alignment=replace(config, interpolate=False))
    strict("denoiser", batch, context())
    with pytest.raises(UserError, match="8x8 grid and the network's 4x4"):
        strict("denoiser", batch | {"teacher/tokens": torch.randn(8, 64, TEACHER)}, context())
    with pytest.raises(UserError, match=r"blocks has 3, and the network's blocks are 1 … 2"):
        task(alignment=replace(config, blocks=[3]))
    with pytest.raises(ValueError, match="alignment needs teacher_dim"):
        net = ToyBackboneConfig().build(SHAPE, None)
        DiffusionTask(net, DiffusionConfig(alignment=config), normalizer())


def test_a_loss_without_bounds_is_refused_before_training():
    with pytest.raises(UserError, match=r"predicts noise is infinite at t = 1"):
        task(backbone={"predicts": "noise"})
    task(backbone={"predicts": "noise"}, times=TimeConfig(high=0.99))


def test_gradient_reaches_every_parameter():
    net = {"predicts": "noise", "variance": True}
    t = task(
        backbone=net, objective="noise", path=VP, alignment=AlignmentConfig(blocks=[2], hidden=6)
    )
    t("denoiser", latents(64), context())["loss"].backward()
    for name, p in t.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name
    (objective,) = t.objectives()
    assert {id(p) for p in objective.params} == {id(p) for p in t.parameters()}


def test_bfloat16_changes_little():
    t, batch = task(alignment=AlignmentConfig(blocks=[2], hidden=6)), latents(32)
    plain = t("denoiser", batch, context())
    with torch.autocast("cpu", torch.bfloat16):
        cast = t("denoiser", batch, context())
    assert all(v.dtype == torch.float32 for v in cast.values())
    torch.testing.assert_close(cast["loss"], plain["loss"], rtol=2e-2, atol=2e-2)
    assert torch.equal(cast["zero"], plain["zero"])  # what the network does not touch


# Validation, export ------------------------------------------------------------------------------


def test_validation_is_fixed_and_stratified():
    t, batch = task(bins=4, times=TimeConfig(shift=3.0)), latents(16)
    ctx = context(fixed_noise=True)
    t.backbone.seen.clear()
    parts = t.validate(batch, ctx)
    seen = t.backbone.seen.copy()
    assert {k: float(v) for k, v in parts.items()} == {
        k: float(v) for k, v in t.validate(batch, context(64, fixed_noise=True)).items()
    }
    assert set(parts) == {"loss", "zero", "time/1", "time/2", "time/3", "time/4"}
    times = torch.stack([times for _, times, _ in seen])  # [bins, B]
    u = times / (3 - 2 * times)
    want = (torch.arange(64) + 0.5).view(4, 16) / 64
    torch.testing.assert_close(u.sort(1).values, want, rtol=1e-5, atol=1e-6)
    assert not torch.equal(u, u.sort(1).values)
    for k, (z, time, condition) in enumerate(seen, 1):
        x = t.input.normalizer.normalize(
            batch["mean"]
            + (0.5 * batch["logvar"]).exp()
            * torch.randn(16, *SHAPE, generator=ctx.noise("posterior"))
        )
        e = (z - (1 - time).view(-1, 1, 1, 1) * x) / time.view(-1, 1, 1, 1)
        loss = (t.backbone(z, time, condition).sample - (e - x)).square().mean()
        torch.testing.assert_close(parts[f"time/{k}"], loss.detach(), rtol=1e-3, atol=1e-3)
    mean = torch.stack([parts[f"time/{k}"] for k in range(1, 5)]).mean()
    torch.testing.assert_close(parts["loss"], mean)


def test_validation_with_a_teacher():
    t, batch = task(alignment=AlignmentConfig(blocks=[1], hidden=6), bins=2), latents(16)
    assert 0.5 < t.validate(batch, context(fixed_noise=True))["alignment"] < 1.5
    del batch["teacher/tokens"]
    assert "alignment" not in t.validate(batch, context(fixed_noise=True))


def test_a_shift_by_dimension_asks_the_latent():
    t = task(times=TimeConfig(shift="dimension"), label_dropout=0.0)
    _, times, _, _ = shown(t, latents(512))
    s = (32 / 4096) ** 0.5  # 2 x 4 x 4 numbers: all but no noise
    u = torch.rand(512, generator=context().noise("time"), dtype=torch.float64)
    torch.testing.assert_close(times, (s * u / (1 + (s - 1) * u)).float())


def test_sample_grids_are_the_previews():
    t, batch = task(), latents(4)
    assert t.sample_grid(batch, context()) is None
    t.preview = lambda denoiser, batch, ctx: torch.zeros(len(batch["index"]), 3, 2, 2)
    assert t.sample_grid(batch, context()).shape == (4, 3, 2, 2)
    assert t.denoiser().backbone is t.backbone


def test_export_leaves_the_projector_behind(tmp_path):
    from latentsmith.backbones.export import load_backbone

    net = BACKBONES["sit"].config(size=None, width=16, depth=2, heads=2).build(SHAPE, CLASSES)
    config = DiffusionConfig(alignment=AlignmentConfig(blocks=[1], hidden=6))
    t = DiffusionTask(net, config, normalizer(), teacher_dim=TEACHER)
    t("denoiser", latents(16), context())["loss"].backward()
    assert all(p.grad is not None for p in t.parameters())
    t.save_pretrained(tmp_path / "net")
    loaded = load_backbone(tmp_path / "net")
    assert loaded.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_settings_from_plain_values():
    config = TypeAdapter(DiffusionConfig).validate_python(
        {
            "path": {"kind": "vp", "schedule": "cosine"},
            "times": {"shift": "dimension"},
            "alignment": {"blocks": [4]},
        }
    )
    assert config.path == VPPathConfig(schedule="cosine")
    assert config.alignment == AlignmentConfig(blocks=[4])
    with pytest.raises(ValueError):
        TypeAdapter(DiffusionConfig).validate_python({"label_dropout": 1.5})


def test_a_published_scale_is_taken_at_its_word():
    """The generator was trained with it, whatever these data's own deviation is."""
    own = normalizer()
    wrong = replace(own, std=own.std * 3)
    net = ToyBackboneConfig().build(SHAPE, CLASSES)
    with pytest.raises(UserError, match="standard deviation"):
        DiffusionTask(net, DiffusionConfig(), wrong)("denoiser", latents(64), context())
    stated = replace(wrong, stated=True)
    DiffusionTask(net, DiffusionConfig(), stated)("denoiser", latents(64), context())
