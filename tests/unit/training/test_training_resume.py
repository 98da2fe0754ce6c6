"""Killed, interrupted, resumed: the same training, bit for bit."""

import json
import os
import signal

import pytest
from toy_training import IN_WRITING, INT, KILL, TERM, assert_same_run, run_processes, toy_fit

from latentsmith.errors import UserError
from latentsmith.training.stopping import Interrupted

EVERYTHING = {"ema": 0.9, "micro_batch": 4, "warmup": 24, "log_every": 24}


@pytest.mark.parametrize(
    ("name", "settings", "deaths"),
    [
        # Before the first checkpoint, right after one, and between two.
        ("adversarial", EVERYTHING, (8, 32, 56)),
        ("norm", {"precision": "bf16"}, (40,)),
        ("steep", {"precision": "fp16", "clip": None}, (40,)),
    ],
)
def test_killed_at_several_steps_equals_uninterrupted(tmp_path, name, settings, deaths):
    toy_fit(name, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    for position in deaths:
        assert run_processes(name, folder, harm={position: KILL}, **settings) == [-KILL]
    assert run_processes(name, folder, **settings) == [0]
    assert_same_run(tmp_path / "whole", folder)


def test_killed_in_the_middle_of_writing_leaves_the_old_checkpoint(tmp_path):
    toy_fit("denoiser", tmp_path / "whole")
    folder = tmp_path / "killed"
    assert run_processes("denoiser", folder, harm={IN_WRITING: 4}) == [-KILL]
    assert [p.name for p in (folder / "checkpoints").glob(".*.tmp")]
    toy_fit("denoiser", folder)
    assert not list((folder / "checkpoints").glob(".*"))
    assert_same_run(tmp_path / "whole", folder)


@pytest.mark.parametrize(("signum", "code"), [(INT, 130), (TERM, 143)])
def test_signals_finish_the_step_save_and_resume(tmp_path, capsys, signum, code):
    before = signal.getsignal(signum)

    def interrupt(start):
        if start == 24:
            os.kill(os.getpid(), signum)

    with pytest.raises(Interrupted, match="stopped at 32 of 64 samples and saved") as stopped:
        toy_fit("adversarial", tmp_path / "a", on_batch=interrupt, **EVERYTHING, save_every=1000)
    assert stopped.value.exit_code == code
    assert "Run the same command to go on" in str(stopped.value)
    assert "finishing this step" in capsys.readouterr().err
    assert signal.getsignal(signum) is before
    toy_fit("adversarial", tmp_path / "a", **EVERYTHING, save_every=1000)
    toy_fit("adversarial", tmp_path / "whole", **EVERYTHING, save_every=1000)
    assert_same_run(tmp_path / "whole", tmp_path / "a")


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def interrupt(start):
        if start == 24:
            for _ in range(2):  # in this very thread: two that are pending count as one
                signal.raise_signal(signal.SIGINT)

    # shells start background jobs with Ctrl-C ignored, and so may whoever starts these tests
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            toy_fit("denoiser", tmp_path, on_batch=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(stopped.value, Interrupted)


def test_interrupted_in_the_last_step_is_simply_done(tmp_path):
    def interrupt(start):
        if start == 56:
            os.kill(os.getpid(), signal.SIGINT)

    _, result = toy_fit("denoiser", tmp_path, on_batch=interrupt)
    assert result.samples == 64


def test_a_finished_training_is_not_trained_again(tmp_path):
    task, first = toy_fit("denoiser", tmp_path, ema=0.9)

    def never(start):
        raise AssertionError("trained again")

    again, second = toy_fit("denoiser", tmp_path, ema=0.9, on_batch=never)
    assert (second.samples, second.last, second.validation) == (64, first.last, first.validation)
    assert second.seconds == pytest.approx(first.seconds)
    for a, b in zip(task.net.parameters(), again.net.parameters(), strict=True):
        assert a.equal(b)
    assert not again.training


def test_other_conditions_are_refused_with_both_values(tmp_path):
    toy_fit("denoiser", tmp_path)
    with pytest.raises(UserError) as refused:
        toy_fit("denoiser", tmp_path, samples=128, lr=3e-3, ema=0.9)
    text = str(refused.value)
    assert "train.lr: 0.01 in the checkpoint, 0.003 now" in text
    assert "train.ema: None in the checkpoint, 0.9 now" in text
    assert "train.samples:" not in text
    with pytest.raises(UserError, match=r"identity.task: 'denoiser' in the checkpoint, 'norm' now"):
        toy_fit("norm", tmp_path)


def test_other_data_are_refused(tmp_path, monkeypatch):
    from toy_training import Source

    toy_fit("denoiser", tmp_path)
    original = Source.__init__

    def other(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.fingerprint = {"digest": "xyz"}

    monkeypatch.setattr(Source, "__init__", other)
    with pytest.raises(UserError, match=r"data.digest: 'abc' in the checkpoint, 'xyz' now"):
        toy_fit("denoiser", tmp_path)


def test_legs_are_one_training_whatever_follows_its_progress(tmp_path):
    settings = {
        **EVERYTHING,
        "log_every": 8,
        "schedule": "cosine",
    }  # the learning rate knows the whole length
    toy_fit("adversarial", tmp_path / "whole", **settings)
    for until, samples in ((16, 16), (41, 48), (48, 48), (None, 64), (24, 64)):
        _, leg = toy_fit("adversarial", tmp_path / "legs", until=until, **settings)
        assert leg.samples == samples
    assert_same_run(tmp_path / "whole", tmp_path / "legs")


def test_a_longer_run_goes_on_and_says_so(tmp_path, capsys):
    toy_fit("denoiser", tmp_path / "a", schedule="constant")
    capsys.readouterr()
    _, result = toy_fit("denoiser", tmp_path / "a", schedule="constant", samples=96)
    assert result.samples == 96
    assert "train.samples changed since the checkpoint: 64 → 96" in capsys.readouterr().err
    toy_fit("denoiser", tmp_path / "whole", schedule="constant", samples=96)
    assert_same_run(tmp_path / "whole", tmp_path / "a")


def test_a_corrupt_checkpoint_is_named_and_the_one_before_used(tmp_path, capsys):
    toy_fit("denoiser", tmp_path / "whole")
    toy_fit("denoiser", tmp_path / "a")
    newest = tmp_path / "a" / "checkpoints" / "000000000064"
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(data)
    capsys.readouterr()
    toy_fit("denoiser", tmp_path / "a")
    said = capsys.readouterr().err
    assert "CORRUPT CHECKPOINT" in said and "000000000064/optimizer.safetensors" in said
    assert "resumed at 48" in said
    assert_same_run(tmp_path / "whole", tmp_path / "a")


def test_all_checkpoints_corrupt_is_an_error_not_a_fresh_start(tmp_path):
    toy_fit("denoiser", tmp_path)
    for state in (tmp_path / "checkpoints").glob("*/state.json"):
        state.write_text("{")
    with pytest.raises(UserError, match=r"every checkpoint in .* is corrupt"):
        toy_fit("denoiser", tmp_path)


def test_metrics_past_the_checkpoint_are_not_doubled(tmp_path):
    def stop(start):
        if start == 40:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        toy_fit("denoiser", tmp_path, on_batch=stop)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"kind": "train", "samples": 4')  # cut short by the crash
    toy_fit("denoiser", tmp_path)
    seen = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [r["samples"] for r in seen if r["kind"] == "train"]
    assert trained == list(range(8, 65, 8))
    assert [r["samples"] for r in seen if r["kind"] == "validation"] == [0, 16, 32, 48, 64]
