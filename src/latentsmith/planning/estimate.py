"""From counts to a plan: memory by micro-batch, time and cost on a GPU, disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latentsmith.errors import UserError
from latentsmith.planning.count import PassCount, StepCount, count_pass, count_step
from latentsmith.planning.devices import GPUS, LAUNCH, RESERVE, SLACK, Device
from latentsmith.planning.stage import Figure, Pass, RecipePlan, Store, Training
from latentsmith.planning.stores import StoreSize, store_size

FIGURES_ON = "H200"
"""The GPU that the sources' figures are of."""


@dataclass(frozen=True)
class Setup:
    """What to plan for.

    Attributes:
        device: the GPU. gpus: how many share each batch.
        utilization: share of the GPU's peak that is reached.
        price: of a GPU hour; None: no cost.
        rows: images, where the settings do not say; None: not known.
    """

    device: Device
    gpus: int = 1
    utilization: float = 0.4
    price: float | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus {self.gpus}: give 1 or more")
        if not 0 < self.utilization <= 1:
            raise UserError(f"--utilization {self.utilization:g}: a share of the peak in (0, 1]")
        if self.price is not None and self.price < 0:
            raise UserError(f"--price {self.price:g}: of a GPU hour, 0 or more")
        if self.rows is not None and self.rows < 1:
            raise UserError(f"--rows {self.rows}: give 1 or more")


@dataclass(frozen=True)
class StageEstimate:
    """A training stage.

    Attributes:
        micro: samples at once on one GPU, as set. fits: the most that fit, of those that divide
            the GPU's share of the batch; 0: not one does.
        memory: micro-batch → bytes of GPU memory at most, all included.
        at_utilization, unfused: seconds a sample on one GPU: of its FLOPs at the stated share of
            the peak; of its operators one by one, at full speed (`Device.floor`).
        step: seconds of an optimizer step.
        seconds: of the whole stage on all GPUs.
        checkpoints: bytes on disk while it trains.
    """

    stage: Training
    count: StepCount
    micro: int
    fits: int
    memory: dict[int, int]
    at_utilization: float
    unfused: float
    step: float
    seconds: float
    checkpoints: int


@dataclass(frozen=True)
class PassEstimate:
    """A frozen network over samples; ``seconds`` None where their number is not known."""

    work: Pass
    count: PassCount
    seconds: float | None


@dataclass(frozen=True)
class StoreEstimate:
    """A store; ``size`` None where the number of rows is not known, ``row`` bytes of one."""

    store: Store
    size: StoreSize | None
    row: int


@dataclass(frozen=True)
class FigureEstimate:
    """A source's figure beside ours: bytes or seconds."""

    figure: Figure
    value: float
    unit: str


@dataclass(frozen=True)
class Estimate:
    """All of a recipe on a setup."""

    plan: RecipePlan
    setup: Setup
    stages: list[StageEstimate]
    passes: list[PassEstimate]
    stores: list[StoreEstimate]
    figures: list[FigureEstimate]

    @property
    def seconds(self) -> float:
        """Of all stages and passes whose length is known."""
        return sum(s.seconds for s in self.stages) + sum(p.seconds or 0 for p in self.passes)

    @property
    def cost(self) -> float | None:
        """Of all GPUs for that long."""
        price, gpus = self.setup.price, self.setup.gpus
        return None if price is None else price * gpus * self.seconds / 3600

    @property
    def disk(self) -> int:
        """Bytes of all stores of known size and of the checkpoints."""
        stores = sum(s.size.total for s in self.stores if s.size is not None)
        return stores + sum(s.checkpoints * s.stage.times for s in self.stages)


def estimate(
    plan: RecipePlan, setup: Setup, *, say: Callable[[str], None] = lambda text: None
) -> Estimate:
    """Count everything.

    Args:
        say: told what is being counted.

    Raises:
        UserError: settings that cannot work, weights that are needed and not at hand, a batch that
            the GPUs cannot share.
    """
    stages, known = [], dict[Any, StepCount]()
    for stage in plan.trainings:
        micros = stage.train.micros(setup.gpus)
        micro = stage.train.batch_size // setup.gpus // micros
        key = (stage.build, stage.batch, micro, micros, stage.train.precision, stage.share)
        key = (*key, stage.train.ema is None)
        if key not in known:  # two arms may differ in their length alone
            say(f"counting a step of {stage.name}")
            sizes = sorted({min(micro, max(2, micro // 4)), micro})
            known[key] = count_step(stage, sizes, micros)
        stages.append(_stage(stage, setup, known[key]))
    passes = []
    for work in plan.passes:
        say(f"counting {work.name}")
        passes.append(_pass(work, setup))
    figures = [_figure(figure, plan, stages, setup) for figure in plan.figures]
    stores = [_store(store, setup) for store in plan.stores]
    return Estimate(plan, setup, stages, passes, stores, figures)


def _stage(stage: Training, setup: Setup, count: StepCount) -> StageEstimate:
    train = stage.train
    micros = train.micros(setup.gpus)
    local = train.batch_size // setup.gpus
    micro = local // micros
    room = setup.device.room - _exchanged(stage, count, setup)
    fits = _divisor(local, count.largest(room))
    peak = setup.device.peak(train.precision) * setup.utilization
    each, floor = count.flops / peak, setup.device.floor(count.ops, train.precision)
    step = local * each + _update(count, setup.device)
    if not train.compile:  # which fuses operators and starts many at once
        step = max(step, local * floor, micros * count.launches * LAUNCH)
    steps = -(-train.samples // train.batch_size)
    copies = (3 + (train.ema is not None)) * count.gradients * (train.keep_last + 1)
    return StageEstimate(
        stage, count, micro, fits, _table(stage, count, setup, local, micro), each, floor, step,
        steps * step * stage.times, copies,
    )  # fmt: skip


def _table(
    stage: Training, count: StepCount, setup: Setup, local: int, micro: int
) -> dict[int, int]:
    """Memory at micro-batches that halve the GPU's share of the batch, and at the one set."""
    sizes, size = {micro}, local
    while size >= 1 and len(sizes) < 8:
        sizes.add(size)
        if size % 2:
            break
        size //= 2
    return {n: on_gpu(stage, count, n, setup) for n in sorted(sizes)}


def on_gpu(stage: Training, count: StepCount, micro: int, setup: Setup) -> int:
    """Bytes of GPU memory with so many samples at once."""
    return round((count.peak(micro) + _exchanged(stage, count, setup)) * SLACK + RESERVE)


def _exchanged(stage: Training, count: StepCount, setup: Setup) -> int:
    """Bytes that several GPUs hold beyond what one would. DDP: a copy of all gradients. FSDP, below
    zero: an Nth of weights, gradients, moments and average, with what is gathered of the first
    two."""
    if setup.gpus == 1:
        return 0
    if stage.train.shard == "none":
        return count.gradients
    shared = 2 * count.gradients + count.state
    return 2 * count.gathered - shared + shared // setup.gpus


def _divisor(local: int, most: int) -> int:
    return max((d for d in range(1, min(most, local) + 1) if local % d == 0), default=0)


def _update(count: StepCount, device: Device) -> float:
    """Seconds of AdamW and the moving average: memory traffic. Weights, gradients and both moments
    are read, all but the gradients written; the average is read and written and reads weights."""
    averaged = count.state // count.gradients > 2
    return count.gradients * (7 + 3 * averaged) / (device.bandwidth * 1e9)


def _pass(work: Pass, setup: Setup) -> PassEstimate:
    rows = work.rows if work.rows is not None else setup.rows
    count = count_pass(work)
    peak = setup.device.peak(work.precision) * setup.utilization
    each = max(count.flops / peak, setup.device.floor(count.ops, work.precision))
    seconds = None if rows is None else rows * each / setup.gpus
    return PassEstimate(work, count, seconds)


def _store(store: Store, setup: Setup) -> StoreEstimate:
    rows = store.rows if store.rows is not None else setup.rows
    one = store_size(store.fields, rows or 1_000_000, store.key_bytes)
    return StoreEstimate(store, None if rows is None else one, one.row)


def _figure(
    figure: Figure, plan: RecipePlan, stages: Sequence[StageEstimate], setup: Setup
) -> FigureEstimate:
    """Our number under the source's conditions: its rows, batch or samples, its GPU."""
    what, _, of = figure.ours.partition("/")
    name, _, number = of.partition("@")
    many = int(number)
    if what == "store":
        store = next(s for s in plan.stores if s.name == name)
        return FigureEstimate(figure, store_size(store.fields, many, store.key_bytes).total, "B")
    found = next(s for s in stages if s.stage.name == name)
    theirs = replace(setup, device=GPUS[FIGURES_ON], gpus=1)
    if what == "memory":
        return FigureEstimate(figure, on_gpu(found.stage, found.count, many, theirs), "B")
    peak = theirs.device.peak(found.stage.train.precision) * setup.utilization
    each = found.count.flops / peak
    return FigureEstimate(figure, many * each, "s")
