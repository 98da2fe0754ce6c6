"""What every recipe promises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig
from latentsmith.registry import OneOf, Registry

if TYPE_CHECKING:
    from latentsmith.config.run import Run

RECIPES = Registry("recipe", "latentsmith.recipes")


@dataclass(frozen=True)
class Stage:
    """One resumable step of a recipe. `run` must itself skip or resume what is already done."""

    name: str
    help: str
    run: Callable[["Run"], None]
    closing: str = ""
    """Also run when the run ends early (``--until``), at this stage or after it: a report of what
    is there."""


@schema
class RecipeConfig:
    """Base of all recipe configs: everything a run depends on."""

    kind: str
    data: Annotated[DatasetConfig, OneOf(DATASETS)]
    """Images to train and measure on."""
    seed: int = 0
    """Seeds every random stream of the run."""

    def stages(self) -> list[Stage]:
        """The stages ``latentsmith run`` goes through, in order; ``latentsmith train
        recipe.stage`` runs one."""
        raise TypeError(f"{type(self).__name__} has no stages()")

    def dry_run(self, run: "Run") -> None:
        """Build everything on the meta device, check shapes and stores, train nothing."""
        raise TypeError(f"{type(self).__name__} has no dry_run()")
