"""NaN, infinity and losses that explode: no checkpoint of them, and no good one pushed out."""

import json

import pytest
import torch
from toy_training import Denoiser, Source, assert_same_run, config, toy_fit

from latentsmith.errors import UserError
from latentsmith.training import checkpoint
from latentsmith.training.loop import fit
from latentsmith.training.spikes import HORIZON


class Exploding(Denoiser):
    """From ``at`` samples on the loss grows, finite; the weights do not stay so."""

    def __init__(self, at: int, factor: float):
        super().__init__(noise=False)
        self.at, self.factor = at, factor

    def forward(self, objective, batch, ctx):
        parts = super().forward(objective, batch, ctx)
        if ctx.samples_seen >= self.at:
            parts["loss"] = parts["loss"] * self.factor
        return parts


def go(task, folder, until=None, **settings):
    return fit(task, Source(8), config(clip=None, **settings), folder, until=until)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_batch_that_is_not_finite_is_skipped_and_named(tmp_path, monkeypatch, value):
    original = Source.__init__

    def poisoned(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.table[21] = value

    monkeypatch.setattr(Source, "__init__", poisoned)
    task, _ = toy_fit("plain", tmp_path)
    lines = (tmp_path / "nonfinite.jsonl").read_text().splitlines()
    assert [21 in json.loads(line)["index"] for line in lines] == [True]
    assert all(p.isfinite().all() for p in task.parameters())


def test_weights_that_overflow_are_not_saved_and_good_checkpoints_stay(tmp_path):
    """AdamW's step knows no size of gradients, but a learning rate may be anything."""
    go(Exploding(10**9, 1.0), tmp_path, until=32)
    good = [p.name for p in checkpoint.listed(tmp_path / "checkpoints")]
    task, step = Exploding(10**9, 1.0), torch.optim.AdamW.step

    def overflowing(self, *args, **kwargs):
        step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(1e38)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as told:
        patch.setattr(torch.optim.AdamW, "step", overflowing)
        go(task, tmp_path, nonfinite_budget=100)
    assert "tensors are NaN or infinite" in str(told.value)
    assert f"checkpoint {tmp_path}/checkpoints/000000000032 is intact" in str(told.value)
    assert [p.name for p in checkpoint.listed(tmp_path / "checkpoints")] == good
    go(Exploding(10**9, 1.0), tmp_path)
    go(Exploding(10**9, 1.0), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path)


def test_an_exploding_loss_is_listed_with_its_samples(tmp_path, capsys):
    at = 8 * (HORIZON + 10)
    samples = 8 * (HORIZON + 20)
    go(Exploding(at, 1e6), tmp_path, samples=samples, lr=1e-4, save_every=400, log_every=400)
    lines = [json.loads(x) for x in (tmp_path / "spikes.jsonl").read_text().splitlines()]
    assert lines[0]["samples"] == at and lines[0]["index"] == Source(8).batch(at)["index"].tolist()
    assert "listed with their sample ids" in capsys.readouterr().err


def test_a_loss_that_leaves_the_finite_numbers_for_good_ends_the_training(tmp_path):
    with pytest.raises(UserError, match=r"lower train\.lr") as told:
        go(Exploding(24, 1e38), tmp_path, samples=256, nonfinite_budget=5)
    assert "6 steps of a budget of 5" in str(told.value)
    newest = checkpoint.listed(tmp_path / "checkpoints")[-1]
    state = checkpoint.load(newest, "model")
    assert all(tensor.isfinite().all() for tensor in state.values())
