"""Training on images and edits: what the network is shown, how often, and what is made of it."""

import pytest
import torch
from toy_denoising import SHAPE, normalizer

from helpers.backbones import randomized
from latentsmith.backbones.dit import SiTConfig
from latentsmith.backbones.text_dit import TextDiTConfig
from latentsmith.diffusion.align import AlignmentConfig
from latentsmith.diffusion.edit_task import EditDiffusionConfig, EditTask
from latentsmith.diffusion.task import DiffusionTask
from latentsmith.diffusion.times import TimeConfig
from latentsmith.errors import UserError
from latentsmith.stores.text_table import TextTable
from latentsmith.training.task import StepContext

LENGTH, WIDTH, SAMPLES = 5, 6, 40


def table(seed, length=LENGTH, masked=True):
    """A text for each of `SAMPLES`, and the empty one; of 2 to 4 tokens."""
    rng = torch.Generator().manual_seed(seed)
    words = torch.randn(SAMPLES + 1, length, WIDTH, generator=rng)
    lengths = torch.randint(2, length, (SAMPLES + 1, 1), generator=rng)
    mask = (torch.arange(length) < lengths).long() if masked else None
    return TextTable(words, torch.arange(SAMPLES), mask=mask)


def captions(**how):
    return table(1, **how)


def instructions(**how):
    other = table(2, **how)
    own = captions(**how)  # the empty prompt is the same: one encoder
    other.embedding[-1] = own.embedding[-1]
    if other.mask is not None and own.mask is not None:
        other.mask[-1] = own.mask[-1]
    return other


def network():
    config = TextDiTConfig(width=16, depth=1, heads=2, text_width=WIDTH, text_length=LENGTH)
    made, empty = randomized(config.build(SHAPE)), captions()
    made.set_null(empty.null, empty.null_mask)
    return made


def task(**settings):
    settings = {"latent": "mode"} | settings
    return EditTask(
        network(),
        EditDiffusionConfig(**settings),
        normalizer(settings["latent"]),
        texts=captions(),
        instructions=instructions(),
    )


def batch_of(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    std = torch.tensor([2.0, 0.5]).view(2, 1, 1)
    found = {"index": torch.arange(n), "text": torch.randint(SAMPLES, (n,), generator=rng)}
    for prefix in ("", "target/"):
        found[f"{prefix}mean"] = 3 + std * torch.randn(n, *SHAPE, generator=rng)
        found[f"{prefix}logvar"] = torch.full((n, *SHAPE), -6.0)
    return found


def context(seen=0, **more):
    return StepContext(seen, 100, seed=5, **more)


def shown(t, batch, ctx=None):
    """(z, t, condition) the network saw in one training step, and the step's parts."""
    seen = []
    handle = t.backbone.register_forward_pre_hook(lambda m, args: seen.append(args))
    parts = t("denoiser", batch, ctx or context())
    handle.remove()
    (given,) = seen
    return *given, parts


def rows(a, b):
    """Which samples are the same [B]."""
    return (a - b).flatten(1).abs().amax(1) < 1e-4


def share(mask):
    return float(mask.double().mean())


NO_DROPS = {"label_dropout": 0.0, "source_dropout": 0.0}
CLEAN = {"times": TimeConfig(high=1e-6)}
"""z is the data."""


# What the network is shown -----------------------------------------------------------------------


def test_edits_and_images_get_their_own_data_text_and_source():
    t, batch = task(**NO_DROPS, **CLEAN, edit_share=0.25), batch_of(2000)
    z, _, condition, _ = shown(t, batch)
    image, edited = (t.input.normalizer.normalize(batch[k]) for k in ("mean", "target/mean"))
    edit = condition["has_source"].bool()
    assert 0.22 < share(edit) < 0.28
    assert torch.equal(rows(z, edited), edit) and torch.equal(rows(z, image), ~edit)
    for table, which in ((t.instructions, edit), (t.texts, ~edit)):
        told = table.condition(batch["text"])
        assert torch.equal((condition["text"] == told["text"]).flatten(1).all(1), which)
        assert torch.equal(condition["mask"][which], told["mask"][which])
    torch.testing.assert_close(condition["source"], image.float())


@pytest.mark.parametrize(("edit_share", "edits"), [(0.0, 0), (1.0, 64)])
def test_all_or_none_may_be_edits(edit_share, edits):
    _, _, condition, _ = shown(task(**NO_DROPS, edit_share=edit_share), batch_of(64))
    assert int(condition["has_source"].sum()) == edits


def test_text_and_source_are_dropped_independently_and_as_often_as_asked():
    t = task(label_dropout=0.3, source_dropout=0.2, edit_share=0.5, **CLEAN)
    batch = batch_of(8000)
    z, _, condition, _ = shown(t, batch)
    edit = rows(z, t.input.normalizer.normalize(batch["target/mean"]))
    told = condition["text"]
    silent = (told == t.texts.null).flatten(1).all(1)
    assert torch.equal(condition["mask"][silent][0], t.texts.null_mask)
    has = condition["has_source"]
    assert not has[~edit].any()
    assert 0.47 < share(edit) < 0.53
    assert 0.27 < share(silent[edit]) < 0.33 and 0.27 < share(silent[~edit]) < 0.33
    assert 0.17 < share(~has[edit]) < 0.23
    assert 0.04 < share((silent & ~has)[edit]) < 0.08, "0.3 x 0.2"


def test_a_step_is_a_function_of_the_context_and_not_of_the_latents():
    t, first, second = task(), batch_of(64), batch_of(64, seed=9)
    second["text"] = first["text"]
    one, again, other = (shown(t, b, context(8)) for b in (first, first, second))
    assert one[3]["loss"] == again[3]["loss"]
    assert torch.equal(one[1], other[1])
    assert all(torch.equal(one[2][k], other[2][k]) for k in ("text", "mask", "has_source"))
    for later in (context(16), context(8, micro=1, micros=2)):
        moved = shown(t, first, later)[2]["has_source"]
        assert not torch.equal(moved, one[2]["has_source"])


def test_samples_of_the_posterior_are_learned_and_sources_are_modes():
    t, batch, ctx = (
        task(latent="sample", **NO_DROPS, **CLEAN, edit_share=1.0),
        batch_of(16),
        context(),
    )
    batch["target/logvar"] += 4
    z, _, condition, _ = shown(t, batch, ctx)
    draw = torch.randn(16, *SHAPE, generator=ctx.noise("target/posterior"))
    raw = batch["target/mean"] + (0.5 * batch["target/logvar"]).exp() * draw
    torch.testing.assert_close(z, t.input.normalizer.normalize(raw), rtol=1e-4, atol=1e-4)
    want = t.input.normalizer.normalize(batch["mean"])
    torch.testing.assert_close(condition["source"], want)


def test_source_and_target_are_mirrored_together():
    t, batch = task(**NO_DROPS, **CLEAN, edit_share=1.0), batch_of(64)
    batch["mean_flipped"] = batch["mean"].flip(-1)
    with pytest.raises(UserError, match=r"edited ones do not: cache both alike, or set flip=false"):
        shown(t, batch)
    batch["target/mean_flipped"] = batch["target/mean"].flip(-1)
    z, _, condition, _ = shown(t, batch)
    normal = t.input.normalizer.normalize
    mirrored = rows(z, normal(batch["target/mean_flipped"]))
    assert torch.equal(rows(condition["source"], normal(batch["mean_flipped"])), mirrored)
    assert torch.equal(rows(condition["source"], normal(batch["mean"])), ~mirrored)
    assert 0.2 < share(mirrored) < 0.8


def test_joined_texts_are_taken_as_they_come():
    t, batch = task(**NO_DROPS, edit_share=0.5), batch_of(32)
    t.texts = t.instructions = None
    for what, joined in (("text", captions()), ("instruction", instructions())):
        with pytest.raises(UserError, match=f"the batch has no '{what}/embedding'"):
            shown(t, batch)
        found = joined.condition(batch["text"])
        batch |= {f"{what}/embedding": found["text"], f"{what}/mask": found["mask"]}
    condition = shown(t, batch)[2]
    want = shown(task(**NO_DROPS, edit_share=0.5), batch)[2]
    assert all(torch.equal(condition[k], want[k]) for k in want)


# What it makes of the answer ---------------------------------------------------------------------


def test_the_loss_is_the_textbooks():
    t, batch, ctx = task(), batch_of(32), context(24)
    _, times, _, parts = shown(t, batch, ctx)
    e = torch.randn(32, *SHAPE, generator=ctx.noise("noise"))
    edit = torch.rand(32, generator=ctx.noise("edits")) < 0.5
    silent = torch.rand(32, generator=ctx.noise("labels")) < 0.1
    lost = torch.rand(32, generator=ctx.noise("sources")) < 0.1
    losses = []
    for k in range(32):  # sample by sample, and sources only where there are some
        name, said = ("target/mean", t.instructions) if edit[k] else ("mean", t.texts)
        x = t.input.normalizer.normalize(batch[name][k : k + 1])
        s = times[k]
        told = said.condition(batch["text"][k : k + 1])
        if silent[k]:
            told = {"text": said.null[None], "mask": said.null_mask[None]}
        if edit[k] and not lost[k]:
            told["source"] = t.input.normalizer.normalize(batch["mean"][k : k + 1])
        with torch.no_grad():
            answer = t.backbone((1 - s) * x + s * e[k], times[k : k + 1], told).sample
        losses.append((answer - (e[k] - x)).square().mean())
    torch.testing.assert_close(parts["loss"].detach(), torch.stack(losses).mean())


@pytest.mark.parametrize("edit_share", [0.0, 0.5])
def test_gradient_reaches_every_parameter(edit_share):
    t = task(edit_share=edit_share)
    (objective,) = t.objectives()
    t("denoiser", batch_of(16), context())["loss"].backward()
    named = dict(t.named_parameters())
    assert len(objective.params) == len(named)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in named.values())
    idle = {n for n, p in named.items() if not p.grad.any()}
    assert idle == (set() if edit_share else {"backbone.source_type"})


def test_validation_scores_both_kinds_on_the_same_noise():
    t, batch = task(edit_share=0.25, label_dropout=1.0, source_dropout=1.0), batch_of(16)
    ctx = context(fixed_noise=True)
    parts = t.validate(batch, ctx)
    config = EditDiffusionConfig(latent="mode")
    alone = DiffusionTask(t.backbone, config, normalizer("mode"), texts=t.texts)
    want = alone.validate(batch, ctx)
    torch.testing.assert_close(parts["text_to_image"], want["loss"])
    source = t.input.normalizer.normalize(batch["mean"])
    losses = []
    for k in range(t.config.bins):
        x = t.input.normalizer.normalize(batch["target/mean"])
        times = t._fixed_times(k, ctx, 16)
        e = torch.randn(16, *SHAPE, generator=ctx.noise(f"noise/{k}"))
        s = times.view(-1, 1, 1, 1)
        told = t.instructions.condition(batch["text"]) | {"source": source}
        answer = t.backbone((1 - s) * x + s * e, times, told).sample
        losses.append((answer - (e - x)).square().mean())
    edit = torch.stack(losses).mean().detach()
    torch.testing.assert_close(parts["edit"], edit)
    torch.testing.assert_close(parts["loss"], 0.75 * want["loss"] + 0.25 * edit)
    assert {"zero", "time/1", "time/4"} < set(parts)
    again = t.validate(batch, context(seen=64, fixed_noise=True))
    assert again["loss"] == parts["loss"]


# Refusals ----------------------------------------------------------------------------------------


def test_what_cannot_be_trained():
    config, parts = EditDiffusionConfig(latent="mode"), {"texts": captions()}
    classes = SiTConfig(width=24, depth=1, heads=3).build(SHAPE, 3)
    with pytest.raises(UserError, match="a sit network is given no image to edit"):
        EditTask(classes, config, normalizer("mode"), **parts)
    for other, message in (
        (instructions(length=7), r"texts of captions are \[5, 6\] and of instructions \[7, 6\]"),
        (instructions(masked=False), r"masks of captions are \[5\] and of instructions None"),
    ):
        with pytest.raises(UserError, match=message):
            EditTask(network(), config, normalizer("mode"), instructions=other, **parts)
    with pytest.raises(ValueError, match="leave alignment out"):
        EditDiffusionConfig(alignment=AlignmentConfig(blocks=[1]))
    batch = {k: v for k, v in batch_of(4).items() if not k.startswith("target")}
    with pytest.raises(UserError, match=r"no edited images: join their latents as store 'target'"):
        shown(task(), batch)
