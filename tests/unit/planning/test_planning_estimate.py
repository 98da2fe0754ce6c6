"""From counts to memory, time, disk and advice."""

import json
from typing import Any

import pytest
import torch

from helpers.planning_tasks import Blocks, Chain, training
from latentsmith.errors import UserError
from latentsmith.planning.devices import LAUNCH, RESERVE, SLACK, Device
from latentsmith.planning.estimate import Setup, estimate
from latentsmith.planning.stage import Figure, Pass, RecipePlan, Store
from latentsmith.planning.table import as_json, bytes_text, lines, seconds_text
from latentsmith.stores.base import FieldSpec

PARTS = {"first": "first", "second": "second"}
SLOW = Device("slow", bf16=1e-3, fp32=1e-3, memory=2, bandwidth=1.0)
"""1e9 FLOP/s: work is all that counts."""
WORK = 4 * 8 * 32 + 6 * 32 * 4
"""FLOPs a sample of the chain."""


def plan(**more):
    return RecipePlan([training(Chain, PARTS, samples=160, **more)])


def test_time_is_work_over_the_reached_share_of_the_peak():
    found = estimate(plan(compile=True), Setup(SLOW, utilization=0.5)).stages[0]
    assert found.at_utilization == pytest.approx(WORK / 0.5e9)
    update = 7 * found.count.gradients / 1e9
    assert found.step == pytest.approx(16 * WORK / 0.5e9 + update)
    assert found.seconds == pytest.approx(10 * found.step)


def test_small_networks_wait_for_python():
    fast = Device("fast", bf16=1000, fp32=1000, memory=80, bandwidth=1000)
    found = estimate(plan(), Setup(fast)).stages[0]
    assert found.step == pytest.approx(found.count.launches * LAUNCH)
    assert estimate(plan(compile=True), Setup(fast)).stages[0].step < found.step / 2


def test_gpus_share_the_batch_and_pay_for_buckets():
    one, four = (estimate(plan(compile=True), Setup(SLOW, n)).stages[0] for n in (1, 4))
    assert (one.micro, four.micro) == (16, 4)
    update = 7 * one.count.gradients / 1e9  # which each does
    assert four.step - update == pytest.approx((one.step - update) / 4)
    buckets = four.memory[4] - one.memory[4]
    assert buckets == pytest.approx(SLACK * four.count.gradients, abs=2)
    with pytest.raises(UserError, match="does not divide over 3 processes"):
        estimate(plan(), Setup(SLOW, 3))


def test_shared_weights_are_an_nth_and_what_is_gathered():
    def needs(gpus: int, **train: Any) -> int:
        stage = training(Blocks, {"blocks": "blocks"}, **train)
        return estimate(RecipePlan([stage]), Setup(SLOW, gpus)).stages[0].memory[4]

    whole = 4 * (4 * 64 + 8)  # bytes of the weights: two blocks and the head are gathered
    gathered = 4 * (2 * 64 + 8)
    ddp, fsdp = needs(4, ema=0.9), needs(4, ema=0.9, shard="fsdp")
    saved = whole + 5 * whole * 3 / 4 - 2 * gathered  # DDP's buckets, and three fourths of the rest
    assert ddp - fsdp == pytest.approx(SLACK * saved, abs=3)
    assert needs(1, shard="fsdp", micro_batch=4) == needs(1, micro_batch=4)


def test_what_fits_divides_the_batch():
    whole = estimate(plan(), Setup(SLOW)).stages[0]
    room = lambda n: (whole.count.peak(n) * SLACK + RESERVE) / 1e9  # noqa: E731
    tight = Device("tight", 1e-3, 1e-3, memory=room(7), bandwidth=1.0)
    found = estimate(plan(), Setup(tight))
    assert found.stages[0].fits == 4
    assert "does NOT fit: set train.micro_batch=4" in "\n".join(lines(found))
    tiny = Device("tiny", 1e-3, 1e-3, memory=1.0, bandwidth=1.0)
    assert "not even one sample fits" in "\n".join(lines(estimate(plan(), Setup(tiny))))


def whole_plan() -> RecipePlan:
    def build():
        with torch.device("meta"):
            return torch.nn.Linear(8, 16, bias=False)

    return RecipePlan(
        plan(ema=0.9).trainings,
        passes=[Pass("reading", build, lambda net, n: net(torch.empty(n, 8)), None)],
        stores=[Store("codes", {"x": FieldSpec((64, 64), "float16")}, None)],
        facts={"images": "none"},
        assumed=[" (a guess)"],
        figures=[Figure("codes", "1 GB", "store/codes@1000", "because")],
    )


def test_rows_that_nobody_knows_are_asked_for():
    found = estimate(whole_plan(), Setup(SLOW, price=2.0))
    text = "\n".join(lines(found))
    assert "give --rows" in text and found.stores[0].size is None
    assert found.passes[0].seconds is None
    given = estimate(whole_plan(), Setup(SLOW, price=2.0, rows=1000))
    assert given.stores[0].size is not None and given.passes[0].seconds
    assert given.cost == pytest.approx(2.0 * given.seconds / 3600)
    assert given.disk == given.stores[0].size.total + given.stages[0].checkpoints
    assert found.figures[0].value == given.stores[0].size.total


def test_a_plan_is_also_json():
    found = as_json(estimate(whole_plan(), Setup(SLOW)))
    assert json.loads(json.dumps(found))["stages"][0]["parts"][0]["label"] == "first"
    assert found["figures"][0]["unit"] == "B" and found["stores"][0]["size"] is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gpus": 0}, "--gpus 0"),
        ({"utilization": 1.5}, "--utilization 1.5"),
        ({"price": -1.0}, "--price -1"),
        ({"rows": 0}, "--rows 0"),
    ],
)
def test_setups_that_cannot_be(wrong, says):
    with pytest.raises(UserError, match=says):
        Setup(SLOW, **wrong)


def test_numbers_as_people_read_them():
    assert [bytes_text(b) for b in (1500, 7.4e9, 1.05e11, 6.72e14)] == [
        "1.5 kB", "7.4 GB", "105 GB", "672 TB",
    ]  # fmt: skip
    assert [seconds_text(s) for s in (2e-6, 0.002, 0.46, 90, 7200, 2.9e5)] == [
        "2 µs", "2 ms", "0.46 s", "1.5 min", "2 h", "3.36 days",
    ]  # fmt: skip
