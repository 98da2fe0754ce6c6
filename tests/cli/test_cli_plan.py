"""``latentsmith plan``: what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from helpers.planning_tasks import Chain, training
from latentsmith.cli import main
from latentsmith.cli._memory import advised
from latentsmith.cli._pipeline import memory_is_told
from latentsmith.config.compose import compose
from latentsmith.config.run import Run
from latentsmith.errors import UserError
from latentsmith.planning.count import count_step
from latentsmith.planning.devices import RESERVE, SLACK
from latentsmith.planning.stage import RecipePlan, Store
from latentsmith.stores.base import FieldSpec
from latentsmith.training.config import TrainConfig
from latentsmith.training.exhausted import OutOfMemory

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"


@pytest.fixture
def planned(toy, monkeypatch):
    """The toy recipe, planned as a chain of two matrices."""
    stages = [training(Chain, {"first": "first", "second": "second"}, samples=160)]
    store = Store("codes", {"x": FieldSpec((64, 64), "float16")}, None)
    plan = RecipePlan(stages, stores=[store], facts={"images": "none"})
    monkeypatch.setattr(toy, "plan", lambda self: plan)


@pytest.mark.usefixtures("planned")
def test_a_plan_is_printed_for_people_and_machines(capsys):
    words = ["plan", "toy", "scale=smoke", "--gpu", "H200", "--gpus", "2", "--price", "4"]
    assert main(words) == 0
    text = capsys.readouterr().out
    for part in (
        "toy scale=smoke\non 2 H200 (bfloat16 989, float32 67 TFLOP/s, 141 GB, 4,800 GB/s) at 40%",
        "toy: 160 samples = 10 steps of 16, fp32",
        "  first      256       0",
        "8 (set)",
        "give --rows",
        "at 4 a GPU hour",
    ):
        assert part in text, part
    assert main([*words, "--json", "--rows", "1000"]) == 0
    found = json.loads(capsys.readouterr().out)
    stage = found["stages"][0]
    assert stage["parts"][0] == {
        "label": "first", "trainable": 256, "frozen": 0, "forward": 512, "backward": 512,
    }  # fmt: skip
    assert (stage["micro_batch"], stage["largest_micro_batch"]) == (8, 8)
    assert found["stores"][0]["size"]["rows"] == 1000


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("plan nothing", "nothing"),
        ("plan mmreg scale=smokey", "Did you mean 'smoke'"),
        ("plan mmreg scale=smoke --gpu H1", "no such GPU. Did you mean 'H100'"),
        ("plan mmreg scale=smoke --gpus 0", "--gpus 0: give 1 or more"),
        ("plan mmreg scale=smoke --gpus 3", "batch_size 16 does not divide over 3 processes"),
        ("plan mmreg scale=smoke --utilization 40", "a share of the peak in (0, 1]"),
        ("plan cache autoencoder.source=x data=shapes", "cache trains nothing"),
    ],
)
def test_mistakes_are_one_sentence(line, says, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def exhausted(micro: int = 16, capacity: float | None = None) -> OutOfMemory:
    cfg = TrainConfig(samples=64, batch_size=16, micro_batch=micro)
    error = OutOfMemory("regularized", cfg, 1, torch.device("cpu"), FULL.split(". ")[0])
    error.capacity = None if capacity is None else int(capacity)
    return error


@pytest.mark.usefixtures("planned")
def test_out_of_memory_is_answered_with_what_the_planner_thinks_fits():
    config = compose("toy", ["scale=smoke"])
    count = count_step(config.plan().trainings[0], [2, 16], micros=2)
    room = count.peak(5) * SLACK + RESERVE
    said = str(advised(exhausted(capacity=room), config, "toy", ["scale=smoke"]))
    assert said.startswith(
        "stage toy: out of memory in regularized on cpu: batch_size 16, 16 samples at once on each "
        "of 1 process (CUDA out of memory). Set train.micro_batch=4, the most that the planner"
    )
    assert said.endswith("latentsmith plan toy scale=smoke shows the rest")
    least = str(advised(exhausted(capacity=0.5e9), config, "toy-2", ["scale=smoke"]))
    assert "not even one sample fits" in least


@pytest.mark.usefixtures("planned")
def test_where_the_planner_knows_nothing_half_is_tried():
    config = compose("toy", ["scale=smoke"])
    for error, stage in ((exhausted(), "toy"), (exhausted(capacity=1e9), "elsewhere")):
        assert "Use micro_batch=8 or less" in str(advised(error, config, stage, []))


def test_any_stage_that_runs_out_of_memory_says_which(toy):
    run = Run(Path("here"), compose("toy", []), [])
    says = r"stage measure: out of memory \(CUDA out of memory"
    with pytest.raises(UserError, match=says), memory_is_told(run, "measure"):
        raise torch.OutOfMemoryError(FULL)
    with pytest.raises(RuntimeError, match="another"), memory_is_told(run, "measure"):
        raise RuntimeError("another fault")
