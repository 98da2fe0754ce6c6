"""Steps whose losses stand out are listed with their samples; training does not notice."""

import json
import math
import statistics

import pytest
import torch
from toy_training import WIDTH, Denoiser, Source, assert_same_run, config, run_processes, toy_fit

from latentsmith.training.loop import fit
from latentsmith.training.parts import check_objectives
from latentsmith.training.spikes import HORIZON, Level, Spikes
from latentsmith.training.task import Objective, Task

LONG = 8 * (HORIZON + 60)
"""Samples of a run that is judged in its last 60 steps."""


class Aligned(Denoiser):
    """Also compares with a teacher, unit vectors of the batch."""

    def forward(self, objective, batch, ctx):
        parts = super().forward(objective, batch, ctx)
        student = torch.nn.functional.normalize(self.net(batch["x"]), dim=1)
        alignment = (1 - (student * batch["teacher"]).sum(1)).mean()
        return parts | {"loss": parts["loss"] + 0.1 * alignment, "alignment": alignment}


class Taught(Source):
    """The teacher is near what the network says at first; in the steps from ``broken`` it is the
    opposite."""

    def __init__(self, broken=()):
        super().__init__(8)
        self.broken = broken
        with torch.no_grad():
            said = Denoiser(noise=False).net(self.table)
        noise = torch.randn(said.shape, generator=torch.Generator().manual_seed(5))
        self.teacher = torch.nn.functional.normalize(said + 0.2 * noise, dim=1)

    def batch(self, start):
        batch = super().batch(start)
        teacher = self.teacher[batch["index"]]
        return batch | {"teacher": -teacher if start in self.broken else teacher}


def lines(folder):
    file = folder / "spikes.jsonl"
    return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []


def train(folder, broken, samples=LONG, **settings):
    settings = {"save_every": 400, "validate_every": 10_000, "log_every": 400} | settings
    cfg = config(samples=LONG, lr=1e-4, schedule="constant", **settings)
    return fit(Aligned(noise=False), Taught(broken), cfg, folder, until=samples)


def test_a_broken_teacher_is_found_by_its_samples(tmp_path, capsys):
    broken = (8 * (HORIZON + 10), 8 * (HORIZON + 30))
    train(tmp_path, broken)
    found = lines(tmp_path)
    assert [r["samples"] for r in found] == list(broken)
    assert [r["index"] for r in found] == [Source(8).batch(b)["index"].tolist() for b in broken]
    for record in found:
        part = record["parts"]["alignment"]
        assert part["value"] > part["mean"] + 8 * part["deviation"] > 0
        assert record["objective"] == "main" and record["rank"] == 0
    said = capsys.readouterr().err
    assert said.count("listed with their sample ids") == 1  # once a run
    assert "WARNING: main/" in said and str(tmp_path / "spikes.jsonl") in said
    assert "latentsmith cache verify" in said


def test_a_healthy_run_lists_nothing(tmp_path, capsys):
    train(tmp_path, ())
    assert not (tmp_path / "spikes.jsonl").exists()
    assert "spike" not in capsys.readouterr().err


def test_null_watches_nothing(tmp_path):
    train(tmp_path, (8 * (HORIZON + 10),), spike=None)
    assert lines(tmp_path) == []


def test_a_resumed_run_may_watch_otherwise(tmp_path):
    train(tmp_path, (), 8 * 50, spike=None)
    train(tmp_path, (), 8 * 60, spike=6.0)


def test_watching_does_not_touch_the_training(tmp_path):
    broken = (8 * (HORIZON + 10),)
    train(tmp_path / "on", broken)
    train(tmp_path / "off", broken, spike=None)
    assert lines(tmp_path / "on") and not lines(tmp_path / "off")
    assert_same_run(tmp_path / "on", tmp_path / "off")


def test_resumed_statistics_are_the_same_to_the_last_digit(tmp_path, capsys):
    broken = (8 * (HORIZON + 10), 8 * (HORIZON + 30), 8 * (HORIZON + 59))
    train(tmp_path / "whole", broken)
    capsys.readouterr()
    warned = []
    for end in (8 * 50, 8 * (HORIZON + 31), LONG):  # also within the steps that are not judged
        train(tmp_path / "parts", broken, end)
        warned.append("listed with their sample ids" in capsys.readouterr().err)
    assert len(lines(tmp_path / "whole")) == 3
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert warned == [False, True, False]


def test_what_was_listed_after_the_checkpoint_is_listed_once(tmp_path):
    broken = (8 * (HORIZON + 10), 8 * (HORIZON + 21))

    class Crash(Exception):
        pass

    class Dying(Taught):
        def batch(self, start):
            if start == 8 * (HORIZON + 30):
                raise Crash
            return super().batch(start)

    cfg = config(samples=LONG, lr=1e-4, save_every=8 * (HORIZON + 20), log_every=400)
    with pytest.raises(Crash):
        fit(Aligned(noise=False), Dying(broken), cfg, tmp_path)
    assert len(lines(tmp_path)) == 2
    fit(Aligned(noise=False), Taught(broken), cfg, tmp_path)
    assert [r["samples"] for r in lines(tmp_path)] == list(broken)


def test_nan_steps_are_the_guards_and_leave_the_statistics_alone(tmp_path):
    class Poisoned(Taught):
        def batch(self, start):
            batch = super().batch(start)
            return batch | {"x": batch["x"] * math.nan} if start == 8 * (HORIZON + 5) else batch

    cfg = config(samples=LONG, lr=1e-4, schedule="constant", log_every=400)
    broken = (8 * (HORIZON + 10),)
    fit(Aligned(noise=False), Poisoned(broken), cfg, tmp_path)
    assert json.loads((tmp_path / "nonfinite.jsonl").read_text())["samples"] == 8 * (HORIZON + 5)
    assert [r["samples"] for r in lines(tmp_path)] == list(broken)
    part = lines(tmp_path)[0]["parts"]["alignment"]
    assert math.isfinite(part["mean"]) and 0 < part["deviation"] < 0.1


def test_a_step_that_is_skipped_for_its_gradient_is_the_guards_too(tmp_path):
    class Cliff(Aligned):
        def forward(self, objective, batch, ctx):
            parts = super().forward(objective, batch, ctx)
            zero = (parts["loss"] * 0).sqrt() if ctx.samples_seen == at else 0  # d/dx √x at 0
            return parts | {"loss": parts["loss"] + zero}

    at = 8 * (HORIZON + 10)
    fit(Cliff(noise=False), Taught((at,)), config(samples=LONG, lr=1e-4, log_every=400), tmp_path)
    assert (tmp_path / "nonfinite.jsonl").exists() and lines(tmp_path) == []


def test_micro_batches_are_judged_as_the_batch_they_make(tmp_path):
    broken = (8 * (HORIZON + 10),)
    train(tmp_path / "whole", broken)
    train(tmp_path / "parts", broken, micro_batch=2)
    (whole,), (parts,) = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert parts["index"] == whole["index"]
    for name, value in whole["parts"]["alignment"].items():
        assert parts["parts"]["alignment"][name] == pytest.approx(value, rel=1e-3), name


def test_two_processes_list_the_one_that_had_the_samples(tmp_path):
    settings = {"samples": LONG, "lr": 1e-4, "schedule": "constant", "save_every": 400}
    settings |= {"validate_every": 10_000, "log_every": 400}
    codes = run_processes("odd one", tmp_path / "two", processes=2, **settings)
    assert codes == [0, 0]
    (record,) = lines(tmp_path / "two")
    assert record["rank"] == 1 and record["samples"] == 8 * (HORIZON + 20)
    assert record["index"] == Source(8, 1, 2).batch(record["samples"])["index"].tolist()
    # a checkpoint of two processes goes on in one, whose larger batches vary less
    _, result = toy_fit("odd one", tmp_path / "two", **(settings | {"samples": LONG + 80}))
    assert result.samples == LONG + 80 and len(lines(tmp_path / "two")) == 1


# ---- statistics ---------------------------------------------------------------------------------


def look(spikes, value, step, **parts):
    rows = [{"loss": value, **parts}]
    return spikes.look("main", rows, {"index": torch.arange(4)}, step, 0)


def normal(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (0.7 + 0.01 * torch.randn(n, generator=rng, dtype=torch.float64)).tolist()


def test_the_first_statistics_are_the_plain_mean_and_deviation():
    level, values = Level(), normal(HORIZON)
    for value in values:
        level.add([value])
    assert level.mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert level.variance == pytest.approx(statistics.pvariance(values), rel=1e-9)
    both = Level()
    for a, b in zip(values[::2], values[1::2], strict=True):
        both.add([a, b])
    assert both.mean == pytest.approx(level.mean, rel=1e-12)
    assert both.variance == pytest.approx(level.variance, rel=1e-9)


def test_later_ones_follow(tmp_path):
    level = Level()
    for value in [*normal(2000), *(x + 1 for x in normal(2000, seed=1))]:
        level.add([value])
    assert level.mean == pytest.approx(1.7, abs=5e-3)
    assert level.deviation == pytest.approx(0.01, rel=0.3)


def test_noise_does_not_stand_out_at_any_seed(tmp_path):
    for seed in range(5):
        spikes = Spikes(tmp_path / "s.jsonl", 6.0)
        assert all(look(spikes, x, i) is None for i, x in enumerate(normal(4000, seed)))
    assert not (tmp_path / "s.jsonl").exists()


def test_one_spike_does_not_hide_the_next_and_a_new_level_is_learnt(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    values = normal(400)
    for at in (200, 201, 230):
        values[at] = 0.98  # the source's token loss amid 0.68
    for step, value in enumerate(values):
        look(spikes, value, step)
    assert [r["samples"] for r in lines_of(spikes)] == [200, 201, 230]
    for step, value in enumerate(normal(400, seed=1), start=400):
        look(spikes, value + 0.5, step)
    assert 1 <= len(lines_of(spikes)) - 3 <= 12  # and then that is how it is


def lines_of(spikes):
    return [json.loads(x) for x in spikes.file.read_text().splitlines()]


def test_a_loss_that_begins_is_no_spike(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    for step, x in enumerate(normal(300)):
        joined = {"adversarial": x} if step >= 150 else {}
        look(spikes, x + sum(joined.values()), step, **joined)
    silent = Spikes(tmp_path / "s.jsonl", 8.0)
    for step, x in enumerate(normal(400)):
        look(silent, 0.5 if step < 200 else x, step)
    assert not spikes.file.exists()


def test_a_part_that_pauses_is_judged_when_it_comes_back(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    for step, x in enumerate(normal(400)):
        now_and_then = {"odd": 0.98 if step == 300 else x} if step % 2 == 0 else {}
        look(spikes, x, step, **now_and_then)
    (record,) = lines_of(spikes)
    assert record["samples"] == 300 and set(record["parts"]) == {"odd"}


def test_a_drop_is_no_spike(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    for step, x in enumerate(normal(300)):
        look(spikes, x - 0.5 * (step >= 200), step)
    assert not spikes.file.exists()


def test_other_numbers_of_processes_start_anew(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    for step, x in enumerate(normal(150)):
        spikes.look("main", [{"loss": x}, {"loss": x}], {"index": torch.arange(4)}, step, 0)
    kept = Spikes(spikes.file, 8.0)
    kept.load(json.loads(json.dumps(spikes.state())))
    assert kept == spikes
    look(kept, 0.7, 150)
    assert kept.levels["main/loss"].steps == 1


def test_rounding_of_a_constant_is_no_spike(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    for step in range(300):
        look(spikes, 0.5 + (step % 2) * 1e-9 + (step == 250) * 1e-6, step)
    assert not spikes.file.exists()


def test_a_part_that_is_not_finite_is_left_out(tmp_path):
    spikes = Spikes(tmp_path / "s.jsonl", 8.0)
    for step, x in enumerate(normal(200)):
        look(spikes, x, step, odd=math.inf if step == 120 else x)
    assert not spikes.file.exists()
    assert math.isfinite(spikes.levels["main/odd"].mean)


# ---- beside it ----------------------------------------------------------------------------------


def test_what_weight_decay_shall_spare_stays_spared():
    class Half(Task):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(WIDTH, 2), torch.nn.Linear(WIDTH, 2)

        def objectives(self):
            return [Objective("x", [*self.parameters()], undecayed=[self.a.weight])]

    task = Half()
    (objective,) = check_objectives(task)
    assert objective.undecayed[0] is task.a.weight
