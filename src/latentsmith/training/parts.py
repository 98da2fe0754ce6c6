"""Which parts of a task train, which are frozen, which are saved."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from latentsmith.errors import UserError
from latentsmith.training.task import Objective, Task


def trainable(task: Task) -> dict[str, nn.Parameter]:
    """name → parameter that requires grad."""
    return {name: p for name, p in task.named_parameters() if p.requires_grad}


def frozen_modules(task: Task) -> Iterator[tuple[str, nn.Module]]:
    """Every submodule that belongs to a frozen part.

    A module is frozen when it, or failing any parameter of its own the nearest module around it,
    holds parameters and none of them requires grad. (LPIPS' scaling layer has only buffers; it is
    as frozen as the LPIPS around it.)
    """

    def walk(name: str, module: nn.Module, inherited: bool) -> Iterator[tuple[str, nn.Module]]:
        params = list(module.parameters())
        frozen = not any(p.requires_grad for p in params) if params else inherited
        if frozen:
            yield name, module
        for child_name, child in module.named_children():
            yield from walk(f"{name}.{child_name}" if name else child_name, child, frozen)

    yield from walk("", task, False)


def saved_buffers(task: Task) -> dict[str, Tensor]:
    """name → persistent buffer outside frozen parts."""
    frozen = {module for _, module in frozen_modules(task)}
    found: dict[str, Tensor] = {}
    for prefix, module in task.named_modules():
        if module in frozen:
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def training_mode(task: Task) -> None:
    """``task.train()``, but frozen parts stay in evaluation mode: their dropout and batch norm
    belong to the network that was frozen."""
    task.train()
    for _, module in frozen_modules(task):
        module.training = False


def check_objectives(task: Task) -> list[Objective]:
    """The task's objectives, each left with its trainable parameters only.

    Raises:
        ValueError: two objectives of one name, none that starts at once, one without trainable
            parameters, parameters outside the task, or trainable parameters that no objective
            owns. All are mistakes in the task, not of its user.
        UserError: trainable weights that are not float32.
    """
    names = {p: name for name, p in task.named_parameters()}
    given = task.objectives()
    if len({o.name for o in given}) < len(given):
        raise ValueError(f"objectives share a name: {[o.name for o in given]}")
    if not any(o.starts_at <= 0 for o in given):
        raise ValueError("no objective starts at 0 samples: nothing would train at first")
    objectives = []
    for o in given:
        params = [p for p in o.params if p.requires_grad]
        if not params:
            raise ValueError(f"objective {o.name!r} has no trainable parameter: all are frozen")
        strangers = [tuple(p.shape) for p in params if p not in names]
        if strangers:
            raise ValueError(
                f"objective {o.name!r} owns parameters of shapes {strangers[:3]} that are not "
                f"reached through the task, so they would not be saved: keep them on self"
            )
        low = [f"{names[p]} ({p.dtype})" for p in params if p.dtype != torch.float32]
        if low:
            raise UserError(
                f"trainable weights must be float32 (precision=bf16|fp16 is autocast only), but "
                f"{', '.join(low[:3])}{' …' if len(low) > 3 else ''}: load the model in float32"
            )
        objectives.append(replace(o, params=params))
    owned = {p for o in objectives for p in o.params}
    orphans = [name for name, p in trainable(task).items() if p not in owned]
    if orphans:
        raise ValueError(
            f"no objective trains {', '.join(orphans[:5])}{' …' if len(orphans) > 5 else ''}: "
            f"give them to one or freeze them by requires_grad_(False)"
        )
    return objectives
