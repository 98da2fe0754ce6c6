"""Trackers, status line, meter, grids."""

import json
import os
import pty
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import toy_fit

from latentsmith.errors import UserError
from latentsmith.training import progress as progress_module
from latentsmith.training.grids import image_grid
from latentsmith.training.metering import Meter
from latentsmith.training.progress import Progress, clock
from latentsmith.training.team import Team
from latentsmith.training.trackers import read_metrics
from latentsmith.utils import live
from latentsmith.utils.live import live_console

ALONE = Team(None, torch.device("cpu"), 0, 1)


def test_a_missing_tracker_names_its_extra_before_anything_runs(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'latentsmith\[wandb\]'"):
        toy_fit("denoiser", tmp_path, trackers=["wandb"])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    toy_fit("denoiser", tmp_path, trackers=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = {e.step: e.value for e in events.Scalars("train/main/loss")}
    kept = read_metrics(tmp_path / "metrics.jsonl")
    written = {r["samples"]: r["main/loss"] for r in kept if r["kind"] == "train"}
    assert shown == pytest.approx(written)
    assert [e.step for e in events.Scalars("validation/loss")] == [0, 16, 32, 48, 64]


def test_metrics_hold_no_nan(tmp_path):
    from latentsmith.training.trackers import JsonLines

    lines = JsonLines(tmp_path / "m.jsonl")
    lines.log("train", 8, {"a": float("nan"), "b": 1.5})
    lines.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {
        "kind": "train",
        "samples": 8,
        "a": None,
        "b": 1.5,
    }


def test_meter_averages_and_survives_a_checkpoint_exactly():
    a, b = Meter(), Meter()
    for value in (0.1, 0.2, 0.7):
        a.add("x", torch.tensor(value))
    a.add("y", torch.tensor(3.0), weight=0.5)
    a.add("y", torch.tensor(5.0), weight=0.5)
    b.load(json.loads(json.dumps(a.state())), torch.device("cpu"))
    b.add("x", torch.tensor(1.0)), a.add("x", torch.tensor(1.0))
    first = a.flush(ALONE)
    assert first == b.flush(ALONE)
    assert first == pytest.approx({"x": 0.5, "y": 4.0})
    assert a.flush(ALONE) == {}


def test_plain_lines_and_heartbeat(capsys, monkeypatch):
    line = Progress(1000, 0, torch.device("cpu"))
    line.show(100, {"loss": 0.12341}, 50.0)
    line.beat(110)
    monkeypatch.setattr(progress_module, "HEARTBEAT", 0.0)
    time.sleep(0.01)
    line.beat(120)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("100/1,000 samples  loss 0.1234  50 samples/s  ETA 0:00:")
    assert said[0].endswith("GB")
    assert len(said) == 2 and said[1].startswith("120/1,000 samples")
    quiet = Progress(1000, 0, torch.device("cpu"), quiet=True)
    quiet.show(1, {}, 1.0), quiet.beat(2), quiet.say("x")
    assert capsys.readouterr().err == ""


def test_one_live_line_on_a_terminal():
    code = (
        "import torch; from latentsmith.training.progress import Progress\n"
        "p = Progress(1000, 0, torch.device('cpu')); p.say('hello there')\n"
        "p.show(500, {'loss': 0.25}, 10.0); p.close()"
    )
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", code]
    subprocess.run(command, stderr=follower, stdout=subprocess.DEVNULL, env=environment, check=True)
    os.close(follower)
    screen = os.read(leader, 65536).decode()
    os.close(leader)
    assert "hello there" in screen and "50%" in screen and "loss 0.25" in screen
    assert "500/1,000 samples" in screen


def test_a_notebook_without_ipywidgets_gets_plain_lines(monkeypatch):
    assert live_console() is None
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    assert live_console() is None
    monkeypatch.setattr(live, "find_spec", lambda name: name == "ipywidgets")
    assert live_console() is not None


def test_clock():
    assert clock(0.4) == "0:00:00" and clock(3725) == "1:02:05"


def test_image_grid_is_row_by_row_with_gaps():
    images = torch.tensor([0.0, 0.5, 2.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    grid = image_grid(images, gap=1)
    assert grid.shape == (7, 7, 3)
    assert grid[1, 1, 0] == 0 and grid[1, 4, 0] == 128 and grid[4, 1, 0] == 255
    assert grid[0, 0, 0] == 255 and grid[4, 4, 0] == 255
    wide = image_grid(torch.linspace(0, 1, 6).reshape(6, 1, 1, 1), gap=0, columns=3)
    assert wide[:, :, 0].tolist() == [[0, 51, 102], [153, 204, 255]]
    colour = torch.zeros(1, 3, 2, 2)
    colour[:, 0] = 1.0
    assert image_grid(colour, gap=0)[0, 0].tolist() == [255, 0, 0]
