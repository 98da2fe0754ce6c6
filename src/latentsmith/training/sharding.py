"""Weights, gradients, moments and averages split over the processes: PyTorch's FSDP2.

Each process keeps 1/N of every trainable parameter, and of what the optimiser and the average hold
beside it. The weights of a block are gathered while it runs and freed after it; those outside of
blocks while the task's step runs. Frozen parts stay whole on every process. Training sees sharded
parameters as `DTensor`; a checkpoint holds whole tensors and knows nothing of all this.

PyTorch has no way back from ``fully_shard``, and whatever follows a training (measuring, sampling
on one process, another leg of it) wants plain modules: `Shards.undo` takes out what was put in.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from latentsmith.errors import UserError
from latentsmith.training.parts import trainable
from latentsmith.training.task import Objective, Task

ENTRIES = ("look_ahead", "validate", "sample_grid")
"""Methods by which the loop enters a task besides calling it: the weights are whole in them too."""


@dataclass
class Shards:
    """A sharded task, and what is needed to make it whole again.

    Attributes:
        objectives: the task's, over sharded parameters.
        originals: sharded parameter → the one that was there before, emptied meanwhile.
        added: module → what FSDP has put into it.
    """

    objectives: list[Objective]
    originals: dict[nn.Parameter, nn.Parameter]
    added: dict[nn.Module, "_Traces"]

    @torch.no_grad()
    def undo(self) -> None:
        """The task as it was, its parameters the same objects with the present values."""
        from torch.distributed._composable_state import _module_state_mapping

        for part, original in self.originals.items():
            original.data = part.full_tensor()  # type: ignore[operator]
            original.requires_grad_(True)
        for module, traces in self.added.items():
            for name, param in module._parameters.items():
                if param is not None and param in self.originals:
                    module._parameters[name] = self.originals[param]
            traces.remove(module)
            _module_state_mapping.pop(module, None)


@dataclass
class _Traces:
    """A module's class, names of attributes and keys of hooks."""

    kind: type
    attributes: set[str]
    hooks: dict[str, set[int]]

    @classmethod
    def of(cls, module: nn.Module) -> "_Traces":
        own = vars(module)
        hooks = {n: set(v) for n, v in own.items() if "_hooks" in n and isinstance(v, dict)}
        return cls(type(module), set(own), hooks)

    def since(self, before: "_Traces") -> "_Traces":
        """What is new; the class of before."""
        hooks = {name: keys - before.hooks[name] for name, keys in self.hooks.items()}
        return _Traces(before.kind, self.attributes - before.attributes, hooks)

    def remove(self, module: nn.Module) -> None:
        for name, keys in self.hooks.items():
            for key in keys:
                del vars(module)[name][key]
        for name in self.attributes:
            del vars(module)[name]
        module.__class__ = self.kind


def shard(task: Task, objectives: list[Objective], device: torch.device) -> Shards:
    """Split the trainable parameters of ``task`` over all processes, in place.

    Args:
        objectives: see `check_objectives`.

    Raises:
        UserError: it has parameters that cannot be split.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    params = trainable(task)
    _check(params, task)
    _from_main([*params.values(), *task.buffers()])
    before = {module: _Traces.of(module) for module in task.modules()}
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    frozen = {p for p in task.parameters() if not p.requires_grad}
    for module in (*task.shard_blocks(), task):
        # The task itself too is freed after a forward pass: validation may put other values in
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)
    for name in ENTRIES:
        register_fsdp_forward_method(task, name)
    after = trainable(task)
    originals = {after[name]: param for name, param in params.items()}
    for param in params.values():
        param.data = param.data.new_empty(0)
    parts = {param: after[name] for name, param in params.items()}
    added = {module: _Traces.of(module).since(traces) for module, traces in before.items()}
    return Shards([_over(o, parts) for o in objectives], originals, added)


@contextlib.contextmanager
def misfits_are_told(task: nn.Module) -> Iterator[None]:
    """Raises UserError for a task whose weights are used outside of a call of their module."""
    try:
        yield
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        raise UserError(
            f"train.shard=fsdp does not fit {task_name(task)}: weights of a block are used other "
            "than by calling the block. Set train.shard=none, or give the task a shard_blocks() "
            "that leaves that block out"
        ) from error


def _check(params: dict[str, nn.Parameter], task: Task) -> None:
    scalars = [name for name, p in params.items() if p.ndim == 0]
    if scalars:
        raise UserError(
            f"train.shard=fsdp cannot split single numbers, and {', '.join(scalars[:3])} of "
            f"{task_name(task)} are such: give them the shape [1], or set train.shard=none"
        )


def task_name(task: nn.Module) -> str:
    """The class's name, without what FSDP puts before it."""
    return type(task).__name__.removeprefix("FSDP")


@torch.no_grad()
def _from_main(tensors: Iterable[Tensor]) -> None:
    """The main process's values for all, as DDP begins; contiguous, as FSDP wants them."""
    for tensor in tensors:
        tensor.data = tensor.data.contiguous()
        dist.broadcast(tensor.data, src=0)


def _over(objective: Objective, parts: dict[nn.Parameter, nn.Parameter]) -> Objective:
    """An objective over other parameters."""

    def those(params: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        return [parts[p] for p in params if p in parts]

    slower = [(scale, those(some)) for scale, some in objective.slower]
    return replace(
        objective,
        params=those(objective.params),
        undecayed=those(objective.undecayed),
        slower=slower,
    )
