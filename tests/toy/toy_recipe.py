"""A recipe small enough to test the settings and the command line with. Trains nothing.

Its registries are its own, so a test of settings does not depend on which encoders exist, and the
library's registries (which contract tests walk) never hold toys: the fixture ``toy`` in conftest.py
lends the recipe to one test at a time.
"""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from latentsmith.config.run import Run
from latentsmith.config.schema import schema
from latentsmith.data.base import DatasetConfig
from latentsmith.errors import UserError
from latentsmith.recipes.base import RecipeConfig, Stage
from latentsmith.registry import OneOf, Registry

ENGINES = Registry("engine", "latentsmith.presets")  # an empty package: entries are below
LAWS = Registry("law", "latentsmith.presets")
DATA = Registry("dataset", "latentsmith.presets")


@schema
class EngineConfig:
    kind: str
    oiled: bool = True


@ENGINES.register("steam", help="burns coal")
@schema
class Steam(EngineConfig):
    kind: Literal["steam"] = "steam"
    pressure: Annotated[float, Field(gt=0)] = 2.0
    """Bar."""
    tubes: Annotated[int, Field(multiple_of=2)] = 8


@ENGINES.register("diesel", help="burns oil")
@schema
class Diesel(EngineConfig):
    kind: Literal["diesel"] = "diesel"
    injection: Literal["direct", "chamber"] = "direct"


@ENGINES.register("loaded", help="must be told where its fuel is")
@schema
class Loaded(EngineConfig):
    kind: Literal["loaded"] = "loaded"
    fuel: Path
    """Folder of the fuel."""


@schema
class LawConfig:
    kind: str


@LAWS.register("linear", help="proportional")
@schema
class Linear(LawConfig):
    kind: Literal["linear"] = "linear"
    weight: Annotated[float, Field(ge=0)] = 1.0


@LAWS.register("teacher", help="as another engine does")
@schema
class Teacher(LawConfig):
    kind: Literal["teacher"] = "teacher"
    engine: Annotated[EngineConfig, OneOf(ENGINES)] = field(default_factory=Diesel)


@LAWS.register("sum", help="several laws added")
@schema
class Sum(LawConfig):
    kind: Literal["sum"] = "sum"
    terms: dict[str, Annotated[LawConfig, OneOf(LAWS)]] = field(default_factory=dict)


@schema
class DriveConfig:
    samples: Annotated[int, Field(gt=0)] = 1000
    """Samples to drive for."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    trackers: list[str] = field(default_factory=lambda: ["jsonl"])


@DATA.register("dots", help="dots made for tests")
@schema
class Dots(DatasetConfig):
    kind: Literal["dots"] = "dots"
    count: Annotated[int, Field(gt=0)] = 10


@DATA.register("folder", help="a folder, for tests")
@schema
class Folder(DatasetConfig):
    kind: Literal["folder"] = "folder"
    path: Path
    """Folder with images."""


@schema
class ToyConfig(RecipeConfig):
    kind: Literal["toy"] = "toy"
    data: Annotated[DatasetConfig, OneOf(DATA)]
    """What is driven over."""
    engine: Annotated[EngineConfig, OneOf(ENGINES)]
    """What drives."""
    spare: Annotated[EngineConfig, OneOf(ENGINES)] | None = None
    law: Annotated[LawConfig, OneOf(LAWS)] = field(default_factory=lambda: Linear(weight=0.5))
    more: dict[str, Annotated[EngineConfig, OneOf(ENGINES)]] = field(default_factory=dict)
    """Engines to compare with."""
    pretrain: DriveConfig = field(default_factory=DriveConfig)
    finetune: DriveConfig = field(default_factory=lambda: DriveConfig(samples=500, lr=2e-5))
    labels: dict[str, int] = field(default_factory=dict)
    fail: Literal["no", "user", "crash", "interrupt"] = "no"

    def __post_init__(self) -> None:
        if self.pretrain.schedule == "cosine" and self.engine.kind == "steam":
            raise ValueError(
                "pretrain.schedule=cosine is not defined for engine=steam; use "
                "pretrain.schedule=constant"
            )

    def stages(self) -> list[Stage]:
        return [
            Stage("pretrain", "drive", lambda run: self._drive("pretrain", run)),
            Stage("finetune", "drive on", lambda run: self._drive("finetune", run)),
        ]

    def _drive(self, name: str, run: Run) -> None:
        if run.stage_done(name):
            return
        if name == "finetune" and self.fail == "user":
            raise UserError("the track ends here; lay more with finetune.samples=10")
        if name == "finetune" and self.fail == "crash":
            raise RuntimeError("boiler burst")
        if name == "finetune" and self.fail == "interrupt":
            raise KeyboardInterrupt
        with (run.path / "drives.txt").open("a") as log:
            log.write(f"{name}\n")
        run.mark_done(name, {"samples": getattr(self, name).samples})

    def dry_run(self, run: Run) -> None:
        print(f"dry run of {self.engine.kind}")
