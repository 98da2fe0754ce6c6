"""One step of a stage, taken without memory: what it would compute, hold and move."""

import functools
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from latentsmith.planning.fake import emptied, without_memory
from latentsmith.planning.stage import Pass, Training
from latentsmith.planning.watch import REST, Op, Watch, size
from latentsmith.training.parts import check_objectives, trainable, training_mode
from latentsmith.training.task import Objective, StepContext, Task

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class PartCount:
    """One part of a stage; FLOPs are of one sample."""

    label: str
    trainable: int
    frozen: int
    forward: float
    backward: float


@dataclass(frozen=True)
class StepCount:
    """A training step.

    Attributes:
        parts: and `REST`, where something is left.
        weights: bytes of all parameters and buffers. state: of AdamW's moments and the moving
            average besides.
        gradients: bytes.
        gathered: bytes of trainable weights that are whole at once where processes share them
            (``train.shard=fsdp``): those outside of blocks, one block and the next.
        working: micro-batch → most bytes alive beside weights and state: activations, gradients,
            what one operator hands to the next.
        kept: micro-batch → bytes the forward pass leaves for the backward pass.
        ops: of each operator its FLOPs and the bytes it reads and writes, a sample.
        launches: operators of a micro-batch.
    """

    parts: list[PartCount]
    weights: int
    state: int
    gradients: int
    gathered: int
    working: dict[int, int]
    kept: dict[int, int]
    ops: list[tuple[float, float]]
    launches: int

    @property
    def forward(self) -> float:
        """FLOPs a sample, all parts."""
        return sum(part.forward for part in self.parts)

    @property
    def backward(self) -> float:
        """Likewise."""
        return sum(part.backward for part in self.parts)

    @property
    def flops(self) -> float:
        """Of a sample, both ways."""
        return self.forward + self.backward

    def peak(self, micro: int) -> int:
        """Bytes of tensors at most with so many samples at once; in between and beyond what was
        counted, on the line through the nearest two."""
        return self.weights + self.state + round(_line(self.working, micro))

    def largest(self, room: float) -> int:
        """The most samples at once that fit into so many bytes; 0: none do."""
        low, high = 0, 1
        while high < 1 << 20 and self.peak(high) <= room:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= room else (low, middle)
        return low


def _line(points: dict[int, int], x: int) -> float:
    if x in points or len(points) == 1:
        return points.get(x, next(iter(points.values())) / next(iter(points)) * x)
    (a, fa), (b, fb) = sorted(sorted(points.items()), key=lambda p: abs(p[0] - x))[:2]
    return fa + (fb - fa) * (x - a) / (b - a)


@dataclass
class _Seen:
    """What a micro-batch came to: most bytes alive, bytes kept for the backward pass, operators,
    and how many micro-batches these are of."""

    working: int
    kept: int
    ops: list[Op]
    batches: int

    def and_then(self, other: "_Seen") -> "_Seen":
        """Of two objectives: the larger memory, the sum of all work."""
        working, kept = max(self.working, other.working), max(self.kept, other.kept)
        return _Seen(working, kept, self.ops + other.ops, self.batches)


def count_step(stage: Training, sizes: Sequence[int], micros: int = 1) -> StepCount:
    """Take the stage's step at each number of samples.

    Args:
        sizes: micro-batches, e.g. two of them; FLOPs are those of the last.
        micros: how many of them make one step and process.

    Raises:
        UserError: settings that cannot work, weights that are needed and not at hand, a step
            whose shapes depend on numbers.
    """
    task = stage.build()
    with without_memory():
        emptied(task)
        training_mode(task)
        objectives = check_objectives(task)
        seen = {n: _step(stage, task, objectives, n, micros) for n in sizes}
        gradients = size(trainable(task).values())
        last, each = seen[sizes[-1]], stage.share / sizes[-1] / seen[sizes[-1]].batches
        return StepCount(
            parts=_parts(stage, task, last.ops, each),
            weights=size([*task.parameters(), *task.buffers()]),
            state=(3 if stage.train.ema else 2) * gradients,
            gradients=gradients,
            gathered=_gathered(task, gradients),
            working={k: s.working for k, s in seen.items()},
            kept={k: s.kept for k, s in seen.items()},
            ops=[(op.flops * each, op.moved * each) for op in last.ops],
            launches=len(last.ops) // last.batches,
        )


def _gathered(task: Task, whole: int) -> int:
    own = [[p for p in block.parameters() if p.requires_grad] for block in task.shard_blocks()]
    blocks = sorted(size(params) for params in own)
    return whole - sum(blocks[:-2])


def _parts(stage: Training, task: Task, ops: list[Op], each: float) -> list[PartCount]:
    work = Counter[tuple[str, bool]]()
    for op in ops:
        work[op.label, op.backward] += op.flops
    found, known = list[PartCount](), set[int]()
    for label, path in stage.parts.items():
        inside = list(task.get_submodule(path).parameters())
        known |= {id(p) for p in inside}
        found.append(_part(label, inside, work, each))
    rest = _part(REST, [p for p in task.parameters() if id(p) not in known], work, each)
    idle = not (rest.trainable or rest.frozen or rest.forward or rest.backward)
    return found if idle else [*found, rest]


def _part(
    label: str, params: list[nn.Parameter], work: Counter[tuple[str, bool]], each: float
) -> PartCount:
    trained = sum(p.numel() for p in params if p.requires_grad)
    total = sum(p.numel() for p in params)
    forward, backward = (work[label, way] * each for way in (False, True))
    return PartCount(label, trained, total - trained, forward, backward)


def _step(stage: Training, task: Task, objectives: list[Objective], n: int, micros: int) -> _Seen:
    """All objectives, each with its own parameters alone taking gradients."""
    params = list(trainable(task).values())
    found: list[_Seen] = []
    for objective in objectives:
        own = set(objective.params)
        for param in params:
            param.requires_grad_(param in own)
        seen = _objective(stage, task, objective, n, micros)
        seen.working += size(p for p in params if p not in own)  # the others' last gradients
        found.append(seen)
    for param in params:
        param.requires_grad_(True)
    return functools.reduce(_Seen.and_then, found)


def _objective(stage: Training, task: Task, objective: Objective, n: int, micros: int) -> _Seen:
    """As `latentsmith.training.engine.Engine` does it; with several micro-batches two of them, the
    second of which finds the first one's gradients in memory."""
    context, name = _context(stage, objective), objective.name
    parts = {label: task.get_submodule(path) for label, path in stage.parts.items()}
    _forget(task)
    with Watch(parts) as seen:
        batches, kept = [stage.batch(n) for _ in range(min(micros, 2))], 0
        if len(batches) > 1:
            with autocast(stage.train.precision):
                task.look_ahead(name, batches, replace(context, micros=2))
        for i, batch in enumerate(batches):
            begun = seen.now
            with autocast(stage.train.precision):
                loss = task(name, batch, replace(context, micro=i, micros=len(batches)))["loss"]
            kept = seen.now - begun
            loss.backward()
            del loss
    _forget(task)
    return _Seen(seen.peak, kept, seen.ops, len(batches))


def _forget(task: Task) -> None:
    """The gradients of earlier steps."""
    for param in task.parameters():
        param.grad = None


def _context(stage: Training, objective: Objective) -> StepContext:
    """Half-way, or once the objective has begun: when every loss has its weight."""
    seen = max(stage.train.samples // 2, objective.starts_at)
    return StepContext(samples_seen=seen, total_samples=stage.train.samples, seed=0)


def autocast(precision: str) -> AbstractContextManager[Any]:
    """The forward pass's precision."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast("cpu", dtype) if dtype else nullcontext()


@dataclass(frozen=True)
class PassCount:
    """A frozen network over samples: parameters, FLOPs a sample, most bytes at once, and its
    operators as `StepCount.ops`."""

    parameters: int
    flops: float
    memory: int
    ops: list[tuple[float, float]]


def count_pass(work: Pass) -> PassCount:
    """Run the network once without memory. Raises UserError as `count_step`."""
    network, n = work.build(), work.batch_size
    with without_memory(), torch.no_grad():
        emptied(network)
        with Watch() as seen, autocast(work.precision):
            work.call(network, n)
        ops = [(op.flops / n, op.moved / n) for op in seen.ops]
        weights = size([*network.parameters(), *network.buffers()])
        count = sum(p.numel() for p in network.parameters())
        return PassCount(count, sum(f for f, _ in ops), weights + seen.peak, ops)
