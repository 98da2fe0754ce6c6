"""FSDP: the same training as DDP and as one process, one checkpoint for all, and a way back."""

import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from test_training_processes import close
from torch import nn
from torch.fx import GraphModule
from toy_training import (
    INT,
    TASKS,
    Blocks,
    Residual,
    Source,
    assert_same_run,
    config,
    records,
    run_processes,
    tensors,
    toy_fit,
)

from helpers.ranks import run_ranks
from latentsmith.errors import UserError
from latentsmith.training.blocks import repeated_blocks
from latentsmith.training.compiling import compile_parts
from latentsmith.training.loop import Loop, fit
from latentsmith.training.sharded import is_sharded
from latentsmith.training.sharding import shard
from latentsmith.training.team import Team

SIX_STEPS = {"samples": 72, "batch_size": 12, "micro_batch": 2, "ema": 0.9, "save_every": 24}
"""Twelve samples: two and three processes can share them. The held-out batch has eight."""


def check_records(a: Path, b: Path) -> None:
    """Losses, gradient norms and validation, to what summing in another order changes."""
    for one, other in zip(records(a), records(b), strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"kind"}:
            assert other[key] == pytest.approx(one[key], rel=2e-4), key


def test_two_then_three_sharded_processes_then_ddp_equal_one(tmp_path):
    """A checkpoint belongs to no number of processes, and to neither way of sharing."""
    toy_fit("blocks", tmp_path / "one", **SIX_STEPS)
    folder, sharded = tmp_path / "many", {"shard": "fsdp"} | SIX_STEPS
    assert run_processes("blocks", folder, processes=2, harm={12: INT}, **sharded) == [1, 1]
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    assert newest.name == "000000000024"
    shutil.copytree(folder, tmp_path / "alone")
    assert run_processes("blocks", folder, processes=3, harm={36: INT}, **sharded) == [1, 1, 1]
    assert run_processes("blocks", folder, processes=2, **SIX_STEPS) == [0, 0]
    _, result = toy_fit("blocks", tmp_path / "alone", **SIX_STEPS)
    assert result.samples == 72
    for other in (folder, tmp_path / "alone"):
        close(tmp_path / "one", other)
        check_records(tmp_path / "one", other)


@pytest.mark.parametrize("name", ["blocks norm", "duel"])
def test_sharding_changes_nothing_but_where_numbers_lie(tmp_path, name):
    """Running statistics, and an objective that leaves the other's parameters alone."""
    ddp, fsdp = tmp_path / "ddp", tmp_path / "fsdp"
    assert run_processes(name, ddp, processes=2, ema=0.9) == [0, 0]
    assert run_processes(name, fsdp, processes=2, ema=0.9, shard="fsdp") == [0, 0]
    close(ddp, fsdp)
    check_records(ddp, fsdp)
    if name == "blocks norm":
        assert int(tensors(ddp)["model:norm.num_batches_tracked"]) == 8


# In three processes of one group ------------------------------------------------------------------


def loaded(folder: Path, world: int) -> dict[str, torch.Tensor]:
    """What a process of ``world`` holds after loading the newest checkpoint, gathered."""
    cfg = replace(config(**SIX_STEPS), shard="fsdp" if world > 1 else "none")
    loop = Loop(TASKS["blocks"](), cfg, folder, Team.join(several_objectives=False), None)
    with loop.alone():
        loop.resume(json.loads((newest(folder) / "state.json").read_text())["state"]["conditions"])
    params = loop.state.params.values()
    assert all(is_sharded(p) == (world > 1) for p in params)
    if world > 1:  # five rows of one weight, by three
        assert next(p.to_local().shape[0] for p in params if p.shape == (5, 6)) < 5
    groups = loop.state.tensors()
    loop.result()
    return {f"{stem}:{n}": t for stem, group in groups.items() for n, t in group.items()}


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").iterdir())[-1]


def legs(folder: Path, rank: int) -> dict[str, object]:
    """A training in two legs of one task; between them it is an ordinary module on each process."""
    task, cfg = Blocks(), config(shard="fsdp", ema=0.9, batch_size=9, samples=63)
    before, own = dict(task.named_parameters()), {id(p) for p in task.parameters()}
    keys = {name: set(vars(module)) for name, module in task.named_modules()}
    first = fit(task, Source(9, rank, 3), cfg, folder, until=27)
    plain = type(task) is Blocks and type(task.blocks[0]) is Residual
    plain &= own == {id(p) for p in task.parameters()} and not any(map(is_sharded, before.values()))
    plain &= keys == {name: set(vars(module)) for name, module in task.named_modules()}
    plain &= all(p.requires_grad for n, p in before.items() if not n.startswith("encoder"))
    x = Source(8).batch(0)["x"]
    with first.averaged():
        alone = task._denoised(x).detach() if rank == 0 else None  # no other process takes part
    second = fit(task, Source(9, rank, 3), cfg, folder)
    return {"plain": plain, "alone": alone, "samples": (first.samples, second.samples)}


class Compiled(Blocks):
    """Blocks are called; the list that holds them is not."""

    def compile_targets(self):
        return list(self.blocks)


def compiled(folder: Path, rank: int) -> dict[str, object]:
    """Two legs of it, traced; what was said, how many graphs there were."""
    graphs, said = [], io.StringIO()

    def backend(graph: GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    cfg = config(shard="fsdp", compile=True, ema=0.9, batch_size=9, samples=63)
    using = partial(compile_parts, backend=backend)
    task = Compiled()
    with mock.patch("latentsmith.training.engine.compile_parts", using), redirect_stderr(said):
        fit(task, Source(9, rank, 3), cfg, folder, until=27)
        fit(task, Source(9, rank, 3), cfg, folder)
    return {"graphs": len(graphs), "said": said.getvalue()}


def refused(name: str, folder: Path) -> str:
    cfg = config(shard="fsdp", batch_size=9)
    try:
        fit(TASKS[name](), Source(3), cfg, folder)
    except UserError as error:
        return str(error)
    return ""


def work(rank: int, world: int, folder: str) -> dict[str, object]:
    # accelerate asks for it, although the group is there
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    place = Path(folder)
    found: dict[str, object] = {"loaded": loaded(place / "one", world)}
    found["legs"] = legs(place / "legs", rank)
    found["compiled"] = compiled(place / "compiled", rank)
    bad = Source(6, rank, world, poison=(7,))  # sample 7 is NaN, on one process
    cfg = config(shard="fsdp", batch_size=6, samples=48, ema=0.9)
    task = Blocks()
    fit(task, bad, cfg, place / "bad")
    found["finite"] = all(bool(p.isfinite().all()) for p in task.parameters())
    found["crooked"] = refused("crooked", place / "crooked")
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    toy_fit("blocks", folder / "one", **SIX_STEPS)
    return folder, run_ranks(work, 3, str(folder))


def test_a_checkpoint_is_loaded_bit_for_bit_whoever_wrote_it(three, tmp_path):
    """One process's by three that share; what three wrote by one."""
    folder, results = three
    for path, held in [(folder / "one", r["loaded"]) for r in results]:
        assert held.keys() == tensors(path).keys()
        for name, tensor in tensors(path).items():
            assert torch.equal(held[name], tensor), name
    shutil.copytree(folder / "legs", tmp_path / "legs")
    cfg = config(ema=0.9, batch_size=9, samples=63)
    loop = Loop(Blocks(), cfg, tmp_path / "legs", Team.join(several_objectives=False), None)
    loop.resume(
        json.loads((newest(tmp_path / "legs") / "state.json").read_text())["state"]["conditions"]
    )
    held = {f"{s}:{n}": t for s, group in loop.state.tensors().items() for n, t in group.items()}
    for name, tensor in tensors(folder / "legs").items():
        assert torch.equal(held[name], tensor), name


def test_after_training_the_task_is_what_it_was(three):
    """Same classes, same parameters, no hooks: one process alone may use it, and train it on."""
    folder, results = three
    for result in results:
        assert result["legs"]["plain"] and result["legs"]["samples"] == (27, 63)
    averaged = tensors(folder / "legs")  # of the end; of 27 samples:
    assert results[0]["legs"]["alone"].isfinite().all() and "ema:gain" in averaged


def test_compiled_it_is_the_same_training(three):
    """Of blocks that FSDP gathers; the second leg uses what the first has compiled."""
    folder, results = three
    for result in results:
        assert result["compiled"]["graphs"] > 0
        assert "nothing has been compiled" not in result["compiled"]["said"]
    assert "resumed" in results[0]["compiled"]["said"]
    check_records(folder / "legs", folder / "compiled")


def test_a_step_with_nan_is_skipped_by_all(three):
    folder, results = three
    assert all(result["finite"] for result in results)
    lines = (folder / "bad" / "nonfinite.jsonl").read_text().splitlines()
    assert len(lines) == 3 and sum('"index": [0, 7]' in line for line in lines) == 1


def test_a_task_that_cannot_be_shared_is_told_what_to_do(three):
    for result in three[1]:
        assert "train.shard=fsdp does not fit Crooked" in result["crooked"]
        assert "Set train.shard=none" in result["crooked"]


# Without other processes --------------------------------------------------------------------------


def test_alone_nothing_is_shared_and_that_is_said(tmp_path, capsys):
    toy_fit("blocks", tmp_path / "none")
    toy_fit("blocks", tmp_path / "fsdp", shard="fsdp")
    assert "train.shard=fsdp has no other process to share with" in capsys.readouterr().err
    assert_same_run(tmp_path / "none", tmp_path / "fsdp")


def test_refusals():
    with pytest.raises(ValueError, match=r"precision fp16 .* use precision=bf16"):
        config(shard="fsdp", precision="fp16")
    task = Blocks()
    task.gain = nn.Parameter(torch.ones(()))
    with pytest.raises(UserError, match=r"cannot split single numbers, and gain of Blocks"):
        shard(task, task.objectives(), torch.device("cpu"))


def test_which_blocks_are_shared_one_by_one():
    task = Blocks()
    assert repeated_blocks(task) == list(task.blocks)
    task.blocks[1].requires_grad_(False)
    assert repeated_blocks(task) == [task.blocks[0], task.blocks[2]]
    task.blocks[2].back.weight = task.blocks[0].back.weight  # tied: they must stay together
    assert repeated_blocks(task) == []
    nested = nn.ModuleList([nn.ModuleList([Residual()]), nn.ModuleList([Residual(), Residual()])])
    task.blocks = nested  # lists cannot be called, what is in them can
    assert repeated_blocks(task) == list(nested[1])
