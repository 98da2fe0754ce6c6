"""What one training does: objectives, accumulation, precision, frozen parts, guard, validation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_training import Adversarial, Denoiser, Source, Steep, config, records, tensors, toy_fit

from latentsmith.errors import UserError
from latentsmith.training.compiling import compile_parts
from latentsmith.training.loop import fit
from latentsmith.training.parts import saved_buffers, trainable, training_mode
from latentsmith.training.task import Objective, StepContext, Task


def values(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(before, module):
    return not all(a.equal(b) for a, b in zip(before, module.parameters(), strict=True))


def train(task, folder, source=None, **settings):
    cfg = config(**settings)
    return fit(task, source or Source(cfg.batch_size), cfg, folder)


# ---- objectives ---------------------------------------------------------------------------------


def test_every_objective_steps_once_it_is_due(tmp_path):
    task = Adversarial()
    g, d = values(task.g), values(task.d)
    train(task, tmp_path, samples=16, warmup=0)
    assert moved(g, task.g) and not moved(d, task.d)  # the discriminator joins at 16 samples
    train(task, tmp_path, samples=24, warmup=0)
    assert moved(d, task.d)


def test_an_objective_leaves_no_gradient_in_the_others_parameters(tmp_path):
    leaks = []

    class Spy(Adversarial):
        def forward(self, objective, batch, ctx):
            if objective == "d":  # the generator has just gone backward through the discriminator
                leaks.extend(p.grad for p in self.d.parameters() if p.grad is not None)
                leaks.extend(p for p in self.g.parameters() if p.requires_grad)
            else:
                leaks.extend(p for p in self.d.parameters() if p.requires_grad)
            return super().forward(objective, batch, ctx)

    task = Spy()
    train(task, tmp_path, samples=24)
    assert leaks == []
    assert all(p.requires_grad for p in task.parameters())


def test_two_objectives_equal_a_hand_written_loop(tmp_path):
    task, hand = Adversarial().eval(), Adversarial()
    train(task, tmp_path, samples=40, schedule="constant", clip=None)
    hand.train()
    # Behind batch norm, while every hinge is open, d's true gradient is 0: Adam makes full steps of
    # its rounding, so both sides must round alike.
    same = {"betas": (0.9, 0.99), "weight_decay": 0, "fused": True}
    opt_g = torch.optim.AdamW(hand.g.parameters(), 1e-2, **same)
    opt_d = torch.optim.AdamW(hand.d.parameters(), 5e-3, **same)
    for start in range(0, 40, 8):
        ctx = StepContext(start, 40, 0)
        for name, opt, since in (("g", opt_g, 0), ("d", opt_d, 16)):
            if start >= since:
                ctx.seed_globals(name)
                hand.zero_grad()
                hand(name, Source(8).batch(start), ctx)["loss"].backward()
                opt.step()
    for (name, a), b in zip(task.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


class Broken(Task):
    def __init__(self, objectives):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.make = objectives

    def objectives(self):
        return self.make(self)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: [Objective("x", [*t.a.parameters()])], "no objective trains b.weight, b.bias"),
        (lambda t: [Objective("x", [*t.parameters()], starts_at=8)], "starts at 0 samples"),
        (lambda t: [Objective("x", [*t.a.parameters()]), Objective("x", [])], "share a name"),
        (
            lambda t: [Objective("x", [*t.parameters()]), Objective("y", [])],
            "'y' has no trainable parameter",
        ),
        (
            lambda t: [Objective("x", [*t.parameters(), nn.Parameter(torch.ones(3))])],
            "not reached through the task",
        ),
    ],
)
def test_mistakes_in_objectives_are_named(tmp_path, make, said):
    with pytest.raises(ValueError, match=said):
        train(Broken(make), tmp_path)


def test_parameters_without_gradient_are_named(tmp_path, capsys):
    class Half(Denoiser):
        def __init__(self):
            super().__init__(noise=False)
            self.unused = nn.Linear(2, 2)

        def objectives(self):
            return [Objective("main", [*self.net.parameters(), *self.unused.parameters()])]

    train(Half(), tmp_path)
    said = "WARNING: 2 parameters of objective 'main' get no gradient: unused.weight, unused.bias"
    assert said in capsys.readouterr().err


def test_a_loss_without_graph_is_an_error(tmp_path):
    class Cut(Denoiser):
        def forward(self, objective, batch, ctx):
            return {"loss": super().forward(objective, batch, ctx)["loss"].detach()}

    with pytest.raises(ValueError, match="'main' depends on none of its parameters"):
        train(Cut(), tmp_path)


# ---- accumulation -------------------------------------------------------------------------------


def test_micro_batches_add_up_to_the_batch(tmp_path):
    whole, parts = Denoiser(noise=False), Denoiser(noise=False)
    train(whole, tmp_path / "a")
    train(parts, tmp_path / "b", micro_batch=2)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(records(tmp_path / "a"), records(tmp_path / "b"), strict=True):
        assert a["main/loss"] == pytest.approx(b["main/loss"], rel=1e-4)


def test_the_task_looks_ahead_only_when_there_are_several_micro_batches(tmp_path):
    task = Adversarial()
    train(task, tmp_path / "a", samples=24, micro_batch=4)
    assert task.looks == [("g", 2), ("g", 2), ("g", 2), ("d", 2)]
    task = Adversarial()
    train(task, tmp_path / "b", samples=24)
    assert task.looks == []


def test_each_micro_batch_draws_its_own_noise_and_its_own_dropout(tmp_path):
    draws, masks = [], []

    class Spy(Denoiser):
        def look_ahead(self, objective, micros, ctx):
            masks.append(torch.rand(3))

        def forward(self, objective, batch, ctx):
            draws.append(torch.rand(3, generator=ctx.noise("input")))
            masks.append(torch.rand(3))
            return super().forward(objective, batch, ctx)

    train(Spy(), tmp_path, samples=16, micro_batch=4)
    assert len({tuple(d.tolist()) for d in draws}) == 4
    # The look-ahead starts where the first micro-batch starts, so that it can be replayed.
    assert masks[0].equal(masks[1]) and masks[3].equal(masks[4])
    assert len({tuple(m.tolist()) for m in masks}) == 4


# ---- frozen parts, buffers, files ---------------------------------------------------------------


def test_frozen_parts_stay_out_of_checkpoints_and_in_evaluation_mode(tmp_path):
    modes = set()

    class Spy(Denoiser):
        def forward(self, objective, batch, ctx):
            modes.add((self.net[3].training, self.encoder[1].training, self.encoder[2].training))
            return super().forward(objective, batch, ctx)

    task = Spy(norm=True)
    frozen = {k: v.clone() for k, v in task.encoder.state_dict().items()}
    train(task, tmp_path, ema=0.9)
    assert modes == {(True, False, False)}
    assert all(v.equal(frozen[k]) for k, v in task.encoder.state_dict().items())
    saved = tensors(tmp_path)
    assert not any("encoder" in name for name in saved)
    assert "model:net.1.running_mean" in saved and "ema:net.0.weight" in saved
    assert "optimizer:main/net.0.weight/exp_avg" in saved


def test_frozen_is_decided_by_the_nearest_module_with_parameters():
    class Nested(Task):
        def __init__(self):
            super().__init__()
            self.vae = nn.Module()
            self.vae.net, self.vae.stats = nn.Linear(2, 2), nn.Module()
            self.vae.stats.register_buffer("mean", torch.zeros(2))
            self.vae.stats.register_buffer("scratch", torch.zeros(2), persistent=False)
            self.lpips = nn.Module()
            self.lpips.net, self.lpips.scaling = nn.Linear(2, 2).requires_grad_(False), nn.Module()
            self.lpips.scaling.register_buffer("shift", torch.zeros(2))
            self.register_buffer("seen", torch.zeros(()))

    task = Nested().eval()
    assert set(saved_buffers(task)) == {"vae.stats.mean", "seen"}
    assert set(trainable(task)) == {"vae.net.weight", "vae.net.bias"}
    training_mode(task)
    assert task.vae.stats.training and not task.lpips.scaling.training


def test_checkpoints_hold_no_pickle_and_old_ones_go(tmp_path):
    train(Denoiser(), tmp_path, keep_last=3)
    folders = sorted((tmp_path / "checkpoints").iterdir())
    assert [f.name for f in folders] == ["000000000032", "000000000048", "000000000064"]
    assert {f.suffix for f in folders[0].iterdir()} == {".safetensors", ".json"}


def test_samples_round_up_to_whole_batches(tmp_path):
    result = train(Denoiser(), tmp_path, samples=60, save_every=50)
    assert result.samples == 64
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "000000000056",
        "000000000064",
    ]


# ---- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "seen"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_computes_low_and_keeps_master_weights_in_float32(tmp_path, precision, seen):
    dtypes = set()

    class Spy(Denoiser):
        def forward(self, objective, batch, ctx):
            dtypes.add(self.net(batch["x"]).dtype)
            return super().forward(objective, batch, ctx)

    task = Spy()
    before = values(task.net)
    train(task, tmp_path, precision=precision, ema=0.9)
    assert dtypes == {seen}
    assert moved(before, task.net)
    assert all(t.dtype == torch.float32 for t in tensors(tmp_path).values())
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in task.net.parameters())


def test_low_precision_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must be float32 .* net.0.weight \(torch.bfloat16\)"):
        train(Denoiser().bfloat16(), tmp_path)


def test_fp16_overflow_is_the_scalers_business_not_the_budgets(tmp_path):
    task = Steep()
    before = values(task.net)
    train(task, tmp_path, precision="fp16", nonfinite_budget=0, samples=160)
    assert moved(before, task.net)
    assert not (tmp_path / "nonfinite.jsonl").exists()


# ---- non-finite guard ---------------------------------------------------------------------------


def test_a_nan_loss_in_fp16_is_no_overflow(tmp_path):
    toy_fit("plain", tmp_path, poison=(28,), precision="fp16")
    line = json.loads((tmp_path / "nonfinite.jsonl").read_text())
    assert line["samples"] == 0 and line["loss"] == "nan"


def test_a_nan_batch_is_skipped_and_its_samples_are_written_down(tmp_path):
    poison = (28, 29)  # sample 28 comes at position 4, 29 at 59: steps 1 and 8
    task, result = toy_fit("norm", tmp_path, poison=poison, ema=0.9)
    assert result.samples == 64
    assert all(torch.isfinite(t).all() for t in task.state_dict().values())
    assert all(torch.isfinite(t).all() for t in tensors(tmp_path).values())
    lines = [json.loads(x) for x in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [(r["samples"], r["objective"]) for r in lines] == [(0, "main"), (56, "main")]
    assert 28 in lines[0]["index"] and 29 in lines[1]["index"] and len(lines[0]["index"]) == 8
    assert lines[0]["loss"] == "nan"


def test_past_the_budget_training_stops_and_names_the_samples(tmp_path):
    with pytest.raises(UserError) as stopped:
        toy_fit("denoiser", tmp_path, poison=(28, 29), nonfinite_budget=1)
    text = str(stopped.value)
    assert "2 steps of a budget of 1" in text and "29" in text and "nonfinite.jsonl" in text


def test_skipped_steps_are_counted_across_a_resume_and_recorded_once(tmp_path):
    def crash(start):
        if start == 56:
            raise RuntimeError("crash")

    # Samples 28, 30 and 29 come in the steps from 0, 48 and 56; the last checkpoint is at 48.
    with pytest.raises(RuntimeError, match="crash"):
        toy_fit("denoiser", tmp_path, poison=(28, 30), on_batch=crash)
    with pytest.raises(UserError, match="3 steps of a budget of 2"):
        toy_fit("denoiser", tmp_path, poison=(28, 30, 29), nonfinite_budget=2)
    lines = (tmp_path / "nonfinite.jsonl").read_text().splitlines()
    assert [json.loads(x)["samples"] for x in lines] == [0, 48, 56]


def test_an_infinite_gradient_of_a_finite_loss_is_caught(tmp_path):
    class Cliff(Denoiser):
        def forward(self, objective, batch, ctx):
            parts = super().forward(objective, batch, ctx)
            zero = (parts["loss"] * 0).sqrt() if ctx.samples_seen == 24 else 0  # d/dx √x at 0
            return {"loss": parts["loss"] + zero}

    task = Cliff()
    train(task, tmp_path)
    assert all(torch.isfinite(p).all() for p in task.parameters())
    line = json.loads((tmp_path / "nonfinite.jsonl").read_text())
    assert line["samples"] == 24 and line["gradient norm"] == "nan" and line["loss"] != "nan"


# ---- validation, records, grids -----------------------------------------------------------------


def test_validation_uses_fixed_noise_and_does_not_disturb_training(tmp_path):
    seen = []

    class Spy(Denoiser):
        def validate(self, batch, ctx):
            seen.append((self.net[3].training, torch.rand(2, generator=ctx.noise("n")).tolist()))
            torch.rand(5), np.random.rand(5)
            return super().validate(batch, ctx)

    often, never = Spy(), Spy()
    held_out = Source(8).batch(1000)
    for task, folder, every in ((often, "a", 8), (never, "b", 10**6)):
        cfg = config(validate_every=every)
        fit(task, Source(8), cfg, tmp_path / folder, val_batch=held_out)
    assert len({str(s) for s in seen}) == 1 and seen[0][0] is False and len(seen) == 9 + 2
    for a, b in zip(often.parameters(), never.parameters(), strict=True):
        assert a.equal(b)


def test_validation_scores_the_averaged_weights(tmp_path):
    task, result = toy_fit("plain", tmp_path, ema=0.9)
    batch, ctx = Source(8).batch(1000), StepContext(0, 1, 0)
    with torch.no_grad():
        raw = task.validate(batch, ctx)["loss"]
        with result.ema.swapped_in():
            averaged = task.validate(batch, ctx)["loss"]
    assert result.validation[-1]["loss"] == pytest.approx(averaged.item(), rel=1e-6)
    assert averaged != raw


def test_records_average_since_the_last_one(tmp_path):
    train(Denoiser(), tmp_path / "every")
    train(Denoiser(), tmp_path / "rare", log_every=32)
    every, rare = records(tmp_path / "every"), records(tmp_path / "rare")
    assert [r["samples"] for r in rare] == [32, 64]
    mean = sum(r["main/loss"] for r in every[:4]) / 4
    assert rare[0]["main/loss"] == pytest.approx(mean, rel=1e-6)
    assert {"kind", "main/rmse", "main/grad_norm", "main/lr"} <= rare[0].keys()


def test_sample_grids_are_pictures(tmp_path):
    toy_fit("denoiser", tmp_path)
    files = sorted((tmp_path / "samples").iterdir())
    assert [f.name for f in files][:2] == ["000000000000.png", "000000000016.png"]
    assert Image.open(files[0]).size == (3 * (3 + 2) + 2, 3 * (2 + 2) + 2)  # 8 images, 3 columns


def test_the_loss_of_a_fixed_training_stays_what_it_was(tmp_path):
    """Golden: changes when the loop, the seeds or the optimiser do. Change it knowingly."""
    _, result = toy_fit("adversarial", tmp_path, ema=0.9, micro_batch=4, warmup=16)
    assert result.last["g/mse"] == pytest.approx(GOLDEN, rel=1e-3)


GOLDEN = 1.13582


# ---- compile, sources ---------------------------------------------------------------------------


def test_compiled_parts_train_the_same_under_the_same_names(tmp_path, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        "latentsmith.training.engine.compile_parts",
        lambda task: compile_parts(task, backend=backend),
    )
    _, plain = toy_fit("plain", tmp_path / "a", ema=0.9)
    _, compiled = toy_fit("plain", tmp_path / "b", ema=0.9, compile=True)
    assert graphs
    assert compiled.last["main/loss"] == pytest.approx(plain.last["main/loss"], rel=1e-5)
    assert tensors(tmp_path / "a").keys() == tensors(tmp_path / "b").keys()
    moved_by = compiled.ema.tensors()["net.0.weight"] - Denoiser(noise=False).net[0].weight
    assert moved_by.abs().max() > 1e-3


def test_compiling_what_is_never_called_is_told(tmp_path, capsys, monkeypatch):
    class Aside(Denoiser):
        def compile_targets(self):
            return [self.encoder]  # an nn.Sequential: every frame of it belongs to torch

    train(Aside(), tmp_path, compile=True)
    assert "WARNING: train.compile is on, but nothing has been compiled" in capsys.readouterr().err


def test_nothing_to_compile_is_an_error(tmp_path):
    class Bare(Denoiser):
        def compile_targets(self):
            return []

    with pytest.raises(UserError, match="Bare names nothing to compile"):
        train(Bare(), tmp_path, compile=True)


def test_batches_of_the_wrong_size_and_an_ending_source_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gave 4 samples at 0 samples where train.batch_size 8"):
        train(Denoiser(), tmp_path / "a", Source(4))

    class Short(Source):
        def iterate(self, start):
            yield self.batch(start)

    with pytest.raises(ValueError, match="ended at 8 samples"):
        train(Denoiser(), tmp_path / "b", Short(8))


def test_a_value_that_is_not_per_sample_cannot_be_cut(tmp_path):
    class Odd(Source):
        def batch(self, start):
            return super().batch(start) | {"temperature": torch.ones(())}

    with pytest.raises(ValueError, match="'temperature'"):
        train(Denoiser(), tmp_path, Odd(8), micro_batch=4)


def test_first_lines_say_what_trains(tmp_path, capsys):
    toy_fit("denoiser", tmp_path)
    said = capsys.readouterr().err
    assert "Denoiser: 214 parameters train (main 214), 36 are frozen" in said
    assert "64 samples from the start, batch 8 = 1 × 1 × 8" in said


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    import shutil

    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"are needed in .*checkpoints.*train.keep_last=2"):
        toy_fit("denoiser", tmp_path)
