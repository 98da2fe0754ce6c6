"""A step's parameters, FLOPs and bytes, against those counted by hand and those allocated."""

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from helpers.planning_tasks import Chain, Duel, training
from latentsmith.planning.count import count_pass, count_step
from latentsmith.planning.stage import Pass, Training
from latentsmith.training.task import StepContext

W, V = 8 * 32, 32 * 4
PARTS = {"first": "first", "second": "second"}


def test_parts_of_a_chain():
    count = count_step(training(Chain, PARTS), [16])
    first, second = count.parts
    assert (first.trainable, first.frozen) == (W, 0) and second.trainable == V
    assert (first.forward, first.backward) == (2 * W, 2 * W), "the input takes no gradient"
    assert (second.forward, second.backward) == (2 * V, 4 * V)
    assert count.flops == 4 * W + 6 * V


def test_state_is_weights_gradients_two_moments_and_the_average():
    plain = count_step(training(Chain, PARTS), [2])
    averaged = count_step(training(Chain, PARTS, ema=0.9), [2])
    assert plain.weights == plain.gradients == 4 * (W + V)
    assert plain.state == 2 * plain.weights and averaged.state == 3 * plain.weights


def test_frozen_parts_have_no_gradient_and_no_state():
    def task():
        chain = Chain()
        chain.first.requires_grad_(False)
        return chain

    count = count_step(training(task, PARTS), [16])
    assert count.parts[0].frozen == W and count.parts[0].backward == 0
    assert count.gradients == 4 * V and count.weights == 4 * (W + V)


def test_activations_grow_in_proportion_and_between_sizes_lies_a_line():
    count = count_step(training(Chain, PARTS), [16, 64])
    # the batch, the hidden layer (after the ReLU; the output of the product is dropped), its square
    assert count.kept[64] - count.kept[16] == pytest.approx(48 * 4 * (32 + 4), rel=0.2)
    middle = (count.peak(16) + count.peak(64)) / 2
    assert count.peak(40) == pytest.approx(middle)
    largest = count.largest(count.peak(40))
    assert largest == 40 and count.largest(0) == 0


def test_later_micro_batches_find_the_first_ones_gradients():
    whole, pieces = (count_step(training(Chain, PARTS), [2], micros=m) for m in (1, 4))
    assert pieces.working[2] >= whole.working[2] + 4 * 8  # the second batch, at least
    assert pieces.flops == whole.flops


def test_objectives_take_turns_and_leave_their_gradients():
    count = count_step(training(Duel, {"maker": "maker", "judge": "judge"}), [16])
    maker, judge = count.parts
    assert maker.forward == 2 * 2 * 64, "once for each objective"
    assert maker.backward == 2 * 64 and judge.backward == 2 * 8 + 2 * 8
    assert count.working[16] >= count.gradients


def test_the_mean_step_may_be_lighter_than_the_one_that_is_counted():
    whole = count_step(training(Chain, PARTS), [4])
    stage = training(Chain, PARTS)
    half = count_step(Training(*[*vars(stage).values()][:6], share=0.5), [4])
    assert half.flops == whole.flops / 2 and half.working == whole.working


def test_a_frozen_network_run_over_samples():
    def build():
        with torch.device("meta"):
            return torch.nn.Linear(8, 16, bias=False)

    count = count_pass(Pass("p", build, lambda net, n: net(torch.empty(n, 8)), 100, batch_size=10))
    assert (count.parameters, count.flops) == (128, 256)
    assert count.memory == 4 * (128 + 10 * 8 + 10 * 16)


def allocated(work) -> int:
    """Most bytes of the CPU's allocator alive at once, as PyTorch's profiler sees them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events: list[Any] = seen.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize("recipe", ["textlatent", pytest.param("mmreg", marks=pytest.mark.slow)])
def test_said_and_allocated_memory_agree_within_a_tenth(recipe):
    """The same step on real tensors (`benchmarks/plan_memory.py` does so for resident memory)."""
    from latentsmith.config.compose import compose

    name = {"mmreg": "generator", "textlatent": "one_shot"}[recipe]
    found = compose(recipe, ["scale=smoke"]).plan().trainings
    stage = next(s for s in found if s.name == name)
    said = count_step(stage, [16]).working[16]
    task = stage.build().to_empty(device="cpu")
    for tensor in (*task.parameters(), *task.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.normal_(tensor, std=0.02)
    task.train()
    seen = StepContext(samples_seen=32, total_samples=64, seed=0)

    def step() -> None:
        batch = stage.batch(16)
        batch = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in batch.items()}
        task(task.objectives()[0].name, batch, seen)["loss"].backward()

    step()  # what is made once
    task.zero_grad(set_to_none=True)
    assert said == pytest.approx(allocated(step), rel=0.1)
