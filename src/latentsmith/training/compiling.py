"""torch.compile without wrappers."""

from typing import Any

from latentsmith.errors import UserError
from latentsmith.training.task import Task


def compile_parts(task: Task, **options: Any) -> bool:
    """torch.compile the task's `compile_targets` in place: no wrapper, no ``_orig_mod.`` names.

    Returns whether that makes new graphs: an earlier leg of this training may have made them.
    """
    targets = task.compile_targets()
    if not targets:
        raise UserError(
            f"train.compile is on, but {type(task).__name__} names nothing to compile: set it to "
            f"false"
        )
    known = all(module._compiled_call_impl is not None for module in targets)
    for module in targets:
        module.compile(**options)
    return not known


def compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
