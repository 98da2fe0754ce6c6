"""What is checked and said before the first step."""

from pathlib import Path

from torch import Tensor

from latentsmith.training.config import TrainConfig
from latentsmith.training.parts import trainable
from latentsmith.training.sharding import task_name
from latentsmith.training.task import Objective, Task
from latentsmith.training.team import Team
from latentsmith.utils.files import require_free
from latentsmith.utils.threads import thread_warning


def count(number: int) -> str:
    """1234567 → ``1.23M``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def summary(
    task: Task, objectives: list[Objective], cfg: TrainConfig, team: Team, resumed_at: int
) -> list[str]:
    """The first lines of a training: what trains, what is frozen, on what, from where."""
    total = sum(p.numel() for p in task.parameters())
    mine = sum(p.numel() for p in trainable(task).values())
    owners = ", ".join(f"{o.name} {count(sum(p.numel() for p in o.params))}" for o in objectives)
    micros = cfg.micros(team.world_size)
    batch = f"{team.world_size} × {micros} × {cfg.batch_size // (team.world_size * micros)}"
    origin = f"resumed at {resumed_at:,}" if resumed_at else "from the start"
    lines = [
        f"{task_name(task)}: {count(mine)} parameters train ({owners}), "
        f"{count(total - mine)} are frozen",
        f"{cfg.samples:,} samples {origin}, batch {cfg.batch_size} = {batch} (processes × "
        f"micro-batches × samples), {cfg.precision} on {team.device}",
    ]
    if cfg.shard == "fsdp":
        lines.append(
            f"weights, gradients, moments and averages are shared by {team.world_size} processes"
            if team.world_size > 1
            else "train.shard=fsdp has no other process to share with: this one holds everything"
        )
    warning = thread_warning() if team.device.type == "cpu" else None
    return [*lines, f"WARNING: {warning}"] if warning else lines


def check_disk(root: Path, tensors: list[Tensor], keep: int, *, present: int) -> None:
    """Refuse to start a training whose checkpoints will not fit.

    Args:
        tensors: what one checkpoint will hold.
        keep: checkpoints kept; one more stands while the newest is written.
        present: checkpoints already there.

    Raises:
        UserError: with the numbers.
    """
    one = sum(t.numel() * t.element_size() for t in tensors)
    needed = one * max(keep + 1 - present, 1)
    what = f"for checkpoints of {one / 1e6:,.1f} MB (train.keep_last={keep}, and one being written)"
    require_free(root, needed, what, "lower train.keep_last, or put the run on another disk")
