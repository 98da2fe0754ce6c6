"""One optimiser step of every objective: accumulation, precision, clipping, guard, processes."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from latentsmith.training.batches import split
from latentsmith.training.compiling import compile_parts, compiled_graphs
from latentsmith.training.config import TrainConfig
from latentsmith.training.parts import training_mode
from latentsmith.training.state import TrainState
from latentsmith.training.stepper import Stepper
from latentsmith.training.stopping import StopFlag
from latentsmith.training.task import Batch, StepContext, Task
from latentsmith.training.team import Team

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _Forward(nn.Module):
    """What DDP wraps. Only ``"loss"`` keeps its graph: DDP waits for the gradient of every
    parameter that any output can reach, and nobody differentiates the other parts."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, objective: str, batch: Batch, ctx: StepContext) -> dict[str, Tensor]:
        parts = self.task(objective, batch, ctx)
        return {n: v if n == "loss" else v.detach() for n, v in parts.items()}


class Engine:
    """Steps a task. Everything that changes is in ``state``."""

    def __init__(
        self,
        task: Task,
        cfg: TrainConfig,
        team: Team,
        state: TrainState,
        say: Callable[[str], None],
        *,
        sharded: bool = False,
    ):
        self.task, self.cfg, self.team, self.state, self.say = task, cfg, team, state, say
        self.micros = cfg.micros(team.world_size)
        self.forward: nn.Module = _Forward(task)
        self.sharded = sharded
        self._reached: set[str] = set()
        self._graphs: int | None = None
        """Graphs before ours are compiled, where new ones must follow."""

    def prepare(self) -> None:
        """Compile, go behind DDP (FSDP does its own exchange), set modes: before the first step."""
        if self.cfg.compile:
            before = compiled_graphs()
            self._graphs = before if compile_parts(self.task) else None
        if not self.sharded:
            self.forward = self.team.wrap(self.forward)
        training_mode(self.task)

    def close(self) -> None:
        """After the last step, however it ended: all parameters take gradients, DDP is no more."""
        self.enable(list(self.state.params.values()))
        self.forward = self.team.unwrap(self.forward)

    def step(self, batch: Batch, stop: StopFlag) -> bool:
        """Every objective due, once, on one batch. Returns whether any process wants to stop."""
        state = self.state
        micros = split(batch, self.micros)
        if self.sharded:  # as DDP does: everybody's running statistics are the main process's
            self.team.spread(state.buffers.values())
        stopping, moved = False, False
        for stepper in state.steppers:
            if state.samples >= stepper.starts_at:
                skipped, asked = self._optimize(stepper, batch, micros, stop)
                stopping, moved = stopping or asked, moved or not skipped
        if state.ema is not None and moved:
            state.ema.update()
        state.samples += self.cfg.batch_size
        return stopping

    def _optimize(
        self, stepper: Stepper, batch: Batch, micros: list[Batch], stop: StopFlag
    ) -> tuple[bool, bool]:
        """One optimiser step; returns (skipped, asked to stop)."""
        state = self.state
        if len(state.steppers) > 1:
            self.enable(stepper.params)
        stepper.zero_grad()
        state.guard.before()
        parts = self._backward(stepper, micros)
        names, means = _means(parts, self.team)
        norm = stepper.clip()
        # The one wait for the device in a step: whether to step must be known before stepping.
        rows, stopping = self.team.gather(torch.cat((means, norm[None])), bool(stop))
        bad_loss = not all(math.isfinite(row[0]) for row in rows)
        bad_norm = not all(math.isfinite(row[-1]) for row in rows)
        overflow = bad_norm and not bad_loss and stepper.overflow_is_normal()
        skip = bad_loss or bad_norm
        stepper.finish(state.samples, skip=skip)
        if skip and not overflow:
            own = rows[self.team.rank]
            shown = {"loss": own[0], "gradient norm": own[-1]}
            state.guard.skipped(stepper.name, batch, state.samples, self.team.rank, shown)
        if not skip:
            for part in parts:
                for name, value in part.items():
                    state.meter.add(f"{stepper.name}/{name}", value, 1 / len(micros))
            state.meter.add(f"{stepper.name}/grad_norm", norm)
            values = [dict(zip(names, row, strict=False)) for row in rows]
            self._watch(stepper, values, batch)
        return skip, stopping

    def _watch(self, stepper: Stepper, values: list[dict[str, float]], batch: Batch) -> None:
        """Note a step whose losses stand out from those before."""
        look, samples = self.state.spikes.look, self.state.samples
        if warning := look(stepper.name, values, batch, samples, self.team.rank):
            self.say(warning)

    def _backward(self, stepper: Stepper, micros: list[Batch]) -> list[dict[str, Tensor]]:
        """Gradients of the mean loss over micro-batches; returns each one's detached parts."""
        name, collected = stepper.name, []
        if len(micros) > 1:
            ctx = self.context(0)
            ctx.seed_globals(name)
            with self.autocast():
                self.task.look_ahead(name, micros, ctx)
        for i, micro in enumerate(micros):
            ctx = self.context(i)
            ctx.seed_globals(name)
            # DDP adds gradients up locally and averages over processes once, at the last one.
            with self._no_sync() if i + 1 < len(micros) else nullcontext():
                with self.autocast():
                    parts = self.forward(name, micro, ctx)
                if not parts["loss"].requires_grad:
                    raise ValueError(
                        f"the loss of objective {name!r} depends on none of its parameters"
                    )
                stepper.backward(parts["loss"] / len(micros))
            collected.append({n: v.detach().float() for n, v in parts.items()})
        if stepper.name not in self._reached:
            self._reached.add(stepper.name)
            self._look_back(stepper)
        return collected

    def _look_back(self, stepper: Stepper) -> None:
        """After an objective's first backward pass: say what it was meant to reach and did not."""
        if unreached := stepper.without_gradient(self.state.names):
            shown = f"{', '.join(unreached[:5])}{' …' if len(unreached) > 5 else ''}"
            self.say(
                f"WARNING: {len(unreached)} parameters of objective {stepper.name!r} get no "
                f"gradient: {shown}"
            )
        if self._graphs is not None and compiled_graphs() == self._graphs:
            self.say(
                "WARNING: train.compile is on, but nothing has been compiled: the task's "
                "compile_targets() are not called, or are plain containers of torch.nn"
            )

    def context(self, micro: int, *, validation: bool = False) -> StepContext:
        """Where training stands, for the task."""
        return StepContext(
            samples_seen=self.state.samples,
            total_samples=self.cfg.samples,
            seed=self.cfg.seed,
            rank=self.team.rank,
            world_size=self.team.world_size,
            micro=micro,
            micros=1 if validation else self.micros,
            device=self.team.device,
            fixed_noise=validation,
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision."""
        dtype = AUTOCAST.get(self.cfg.precision)
        return torch.autocast(self.team.device.type, dtype) if dtype else nullcontext()

    def _no_sync(self) -> AbstractContextManager[Any]:
        wrapped = self.forward
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def enable(self, params: list[nn.Parameter]) -> None:
        """Only ``params`` take gradients: a generator's loss goes *through* the discriminator
        without leaving gradients in it."""
        wanted = set(params)
        for param in self.state.params.values():
            param.requires_grad_(param in wanted)


def _means(parts: list[dict[str, Tensor]], team: Team) -> tuple[list[str], Tensor]:
    """Names of the loss parts that every micro-batch of every process has, ``"loss"`` first, and
    their means over micro-batches [names]."""
    own = [n for n in parts[0] if n != "loss" and all(n in p for p in parts)]
    lists = team.names(own)
    same = all(names == own for names in lists)
    common = own if same else sorted(set(own).intersection(*lists))  # in one order everywhere
    names = ["loss", *common]
    values = torch.stack([p[n] for p in parts for n in names])
    return names, values.view(len(parts), -1).mean(0)
