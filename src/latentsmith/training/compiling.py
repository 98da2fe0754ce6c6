"""torch.compile without wrappers."""

from typing import Any

from latentsmith.errors import UserError
from latentsmith.training.task import Task


def compile_parts(task: Task, **options: Any) -> None:
    """torch.compile the task's `compile_targets` in place: no wrapper, no ``_orig_mod.`` names."""
    targets = task.compile_targets()
    if not targets:
        raise UserError(
            f"train.compile is on, but {type(task).__name__} names nothing to compile: set it to "
            f"false"
        )
    for module in targets:
        module.compile(**options)


def compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
