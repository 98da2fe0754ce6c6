"""What a recipe says of itself to be planned: filled in by its ``plan.py``, counted elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from latentsmith.stores.base import FieldSpec
from latentsmith.training.config import TrainConfig
from latentsmith.training.task import Batch, Task


@dataclass(frozen=True)
class Training:
    """A stage that trains.

    Attributes:
        name: of the stage.
        train: its length, batch, precision.
        setting: where `train` lies among the recipe's settings, dotted.
        build: the stage's own task, its networks on the meta device.
        batch: number of samples → a batch of such a size; called inside
            `latentsmith.planning.fake.without_memory`.
        parts: what is counted apart: label → dotted path of a submodule of the task.
        times: how often the stage is done (arms, seeds).
        share: cost of the mean step over that of the step that is built, where it is the heaviest.
    """

    name: str
    train: TrainConfig
    setting: str
    build: Callable[[], Task]
    batch: Callable[[int], Batch]
    parts: Mapping[str, str]
    times: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class Pass:
    """A frozen network run once over samples, to fill a store.

    Attributes:
        build: the network, on the meta device.
        call: (network, number of samples) → what it gives, without gradient; called inside
            `without_memory`.
        rows: samples; None: not known.
        batch_size: samples at once.
        precision: as `TrainConfig.precision`.
    """

    name: str
    build: Callable[[], nn.Module]
    call: Callable[[Any, int], Any]
    rows: int | None
    batch_size: int = 64
    precision: str = "fp32"


@dataclass(frozen=True)
class Store:
    """A store on disk.

    Attributes:
        fields: as in its manifest.
        rows: None: not known.
        key_bytes: length of a row's key on average.
    """

    name: str
    fields: Mapping[str, FieldSpec]
    rows: int | None
    key_bytes: float = 7.0


@dataclass(frozen=True)
class Figure:
    """A number of the method's source, to stand beside ours.

    Attributes:
        what: e.g. ``latents of 200,000 images``.
        source: as it is given there.
        ours: which of our numbers answers it: ``store/NAME@rows`` (bytes), ``memory/STAGE@batch``
            (bytes), ``time/STAGE@samples`` (seconds).
        why: where the difference comes from.
    """

    what: str
    source: str
    ours: str
    why: str


@dataclass(frozen=True)
class RecipePlan:
    """All of a recipe.

    Attributes:
        facts: shapes worth a line, label → text.
        assumed: what was not at hand and is taken to be, with how to say otherwise.
    """

    trainings: Sequence[Training]
    passes: Sequence[Pass] = ()
    stores: Sequence[Store] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    assumed: Sequence[str] = ()
    figures: Sequence[Figure] = ()
