"""What every recipe promises."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig
from latentsmith.errors import UserError
from latentsmith.registry import OneOf, Registry

if TYPE_CHECKING:
    from latentsmith.config.run import Run
    from latentsmith.planning.stage import RecipePlan
    from latentsmith.training.team import Team

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
    abreast: str = ""
    """Name of a group. Neighbours of one group need nothing of each other: ``latentsmith run`` does
    them side by side where it has CPU threads to share out."""


class Staged:
    """What the stages of one recipe share: who runs them, and that nothing is done twice.

    Attributes:
        team: this process among those of the run; subclasses have it.
    """

    team: "Team"

    def _once(self, run: "Run", stage: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do what is not done, in all processes alike, and keep its summary."""
        if self.team.on_main(lambda: run.stage_done(stage)):
            return
        found = work()
        self.team.on_main(lambda: run.mark_done(stage, found))


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

    def plan(self) -> "RecipePlan":
        """What is trained, computed once and stored, to be counted without running it. For
        ``latentsmith plan``. Raises UserError for recipes that train nothing."""
        raise UserError(f"the recipe {self.kind} trains nothing, so there is nothing to plan")

    def dry_run(self, run: "Run") -> None:
        """Build everything on the meta device, check shapes and stores, train nothing."""
        raise TypeError(f"{type(self).__name__} has no dry_run()")


@schema
class TrainingRecipe(RecipeConfig):
    """A recipe in a folder of its own. What it does lies beside its config, in files that are
    imported when they are asked for, since they need torch: ``stages.py``, ``plan.py``,
    ``dry_run.py`` and ``sweep.py``, each with the function that is called here."""

    def stages(self) -> list[Stage]:
        """See `RecipeConfig.stages`."""
        return self._beside("stages").stages(self)

    def plan(self) -> "RecipePlan":
        """See `RecipeConfig.plan`."""
        return self._beside("plan").plan(self)

    def dry_run(self, run: "Run") -> None:
        """See `RecipeConfig.dry_run`."""
        self._beside("dry_run").dry_run(self, run)

    def sweep_report(self, folders: list[Path], out: Path) -> None:
        """One table over settings and seeds. For ``latentsmith sweep``."""
        self._beside("sweep").write(folders, out)

    def _beside(self, name: str) -> Any:
        """Of this class, or of the recipe it derives from."""
        for kind in type(self).__mro__:
            package = kind.__module__.rpartition(".")[0]
            if package and importlib.util.find_spec(f"{package}.{name}"):
                return importlib.import_module(f"{package}.{name}")
        raise TypeError(f"there is no {name}.py beside {type(self).__name__}")
