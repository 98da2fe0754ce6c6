"""What to set after memory ran out: the planner's word."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsmith.errors import UserError
    from latentsmith.recipes.base import RecipeConfig
    from latentsmith.training.exhausted import OutOfMemory


def advised(
    error: "OutOfMemory", config: "RecipeConfig", stage: str, words: list[str]
) -> "UserError":
    """``error`` with the largest micro-batch that the planner thinks fits in the stage; as it is
    where the planner does not know the stage."""
    import shlex

    from latentsmith.errors import UserError

    planned = _planned(config, stage)
    if planned is None or error.capacity is None:
        return error
    fits = _fits(planned, error)
    if fits is None:
        return error
    again = shlex.join(["latentsmith", "plan", config.kind, *words])
    setting = f"{planned.setting}.micro_batch"
    advice = (
        f"set {setting}={fits}, the most that the planner expects to fit: the same batch is then "
        "made of smaller pieces"
        if fits
        else "the planner expects that not even one sample fits: it takes a device with more memory"
    )
    return UserError(f"stage {stage}: {error.where}. {advice.capitalize()}. {again} shows the rest")


def _planned(config: "RecipeConfig", stage: str) -> Any:
    """The stage as its recipe plans it (one plan stands for a generator of each arm)."""
    from latentsmith.errors import UserError

    try:
        found = config.plan().trainings
    except UserError:
        return None
    return next((s for s in found if stage == s.name or stage.startswith(s.name + "-")), None)


def _fits(planned: Any, error: "OutOfMemory") -> int | None:
    """The largest divisor of the batch's share that fits, below what did not; 0: none."""
    from latentsmith.errors import UserError
    from latentsmith.planning.count import count_step
    from latentsmith.planning.devices import RESERVE, SLACK

    assert error.capacity is not None
    try:
        count = count_step(planned, sorted({min(2, error.micro), error.micro}), micros=2)
    except UserError:
        return None
    most = min(count.largest((error.capacity - RESERVE) / SLACK), error.micro - 1)
    return max((d for d in range(1, most + 1) if error.local % d == 0), default=0)
