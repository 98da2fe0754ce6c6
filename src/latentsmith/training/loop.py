"""The one training loop: from a folder's state to a trained task. It knows no recipe.

Here: start, resume, cadences, the end. One step is in `engine`, what a checkpoint holds in `state`.
"""

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.training import checkpoint
from latentsmith.training.batches import BatchSource, shard, to_device
from latentsmith.training.config import TrainConfig
from latentsmith.training.ema import EMA
from latentsmith.training.engine import Engine
from latentsmith.training.exhausted import memory_is_told
from latentsmith.training.guard import Guard
from latentsmith.training.metering import Meter
from latentsmith.training.parts import check_objectives, saved_buffers, trainable
from latentsmith.training.preflight import check_disk, summary
from latentsmith.training.reporter import Reporter
from latentsmith.training.sharding import Shards, misfits_are_told
from latentsmith.training.sharding import shard as shard_task
from latentsmith.training.spikes import Spikes
from latentsmith.training.state import TrainState, check_conditions, conditions
from latentsmith.training.stepper import Stepper
from latentsmith.training.stopping import Interrupted, StopFlag, stop_on_signal
from latentsmith.training.task import Batch, Task
from latentsmith.training.team import Team
from latentsmith.training.trackers import check_trackers, read_metrics, truncate_records
from latentsmith.utils.files import tidy
from latentsmith.utils.lock import Lock
from latentsmith.utils.memory import keep_heap
from latentsmith.utils.peers import lost_peers_are_told


@dataclass(frozen=True)
class FitResult:
    """What a training came to. The task holds the trained weights, in evaluation mode.

    Attributes:
        samples: samples seen in all.
        last: loss parts of the last record, ``"<objective>/<part>"`` → value.
        validation: records of metrics.jsonl of kind "validation", oldest first.
        seconds: time spent training, over all resumed sessions.
        ema: the moving average (``with result.ema.swapped_in(): …``), or None.
    """

    samples: int
    last: dict[str, float]
    validation: list[dict[str, Any]]
    seconds: float
    ema: EMA | None

    def averaged(self) -> AbstractContextManager[Any]:
        """``with result.averaged():`` the averaged weights in place, where there are such."""
        return nullcontext() if self.ema is None else self.ema.swapped_in()

    def summary(self, place: Path, **more: Any) -> dict[str, Any]:
        """What a training stage leaves for later stages and the report; ``place`` is its folder."""
        return {
            "training": place,
            "samples": self.samples,
            "seconds": round(self.seconds, 1),
            "ema": self.ema is not None,
            "parts": self.last,
            **more,
        }


def fit(
    task: Task,
    batches: BatchSource,
    cfg: TrainConfig,
    folder: Path,
    *,
    val_batch: Batch | None = None,
    identity: dict[str, Any] | None = None,
    until: int | None = None,
) -> FitResult:
    """Train ``task`` until ``cfg.samples``; called again on the same folder, go on or return.

    Args:
        batches: this process's part of every batch; see `BatchSource`.
        folder: gets metrics.jsonl, nonfinite.jsonl, spikes.jsonl, samples/, checkpoints/,
            tensorboard/.
        val_batch: held-out batch for validation and sample grids, the same on every process
            (each takes its part). None: no validation.
        identity: JSON-able; what else the result depends on (model and loss settings, digests of
            frozen weights). Resuming under another identity is refused.
        until: end this leg after so many samples, saved, to be gone on with by another call:
            learning rate and whatever else follows the progress know of the whole run only.

    Raises:
        UserError: settings that cannot work, changed conditions, disk full, too many NaNs,
            another process that trains in this folder.
        PeerLost: another process of this training is gone.
        OutOfMemory: a step does not fit; says which micro-batch to try.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    keep_heap()
    team = Team.join(several_objectives=len(task.objectives()) > 1)
    loop = Loop(task, cfg, Path(folder), team, val_batch)
    loop.goal = cfg.samples if until is None else min(until, cfg.samples)
    with loop.alone(), lost_peers_are_told(loop.newest):
        loop.resume(conditions(cfg, batches.fingerprint, identity or {}))
        if loop.state.samples < loop.goal:
            loop.train(batches)
        return loop.result()


class Loop:
    """One training in progress; `fit` is the way in."""

    def __init__(
        self, task: Task, cfg: TrainConfig, folder: Path, team: Team, val_batch: Batch | None
    ):
        self.task, self.cfg, self.folder, self.team = task.to(team.device), cfg, folder, team
        self.root = folder / "checkpoints"
        self.goal = cfg.samples
        self.objectives = check_objectives(task)
        self.shards: Shards | None = None
        if cfg.shard == "fsdp" and team.world_size > 1:
            self.shards = shard_task(task, self.objectives, team.device)
            self.objectives = self.shards.objectives
        params, buffers = trainable(task), saved_buffers(task)
        floats = [b for b in buffers.values() if b.is_floating_point()]
        self.state = TrainState(
            params=params,
            buffers=buffers,
            steppers=[Stepper(o, cfg, team.device) for o in self.objectives],
            ema=EMA(params, cfg.ema) if cfg.ema else None,
            guard=Guard(folder / "nonfinite.jsonl", cfg.nonfinite_budget, floats),
            spikes=Spikes(folder / "spikes.jsonl", cfg.spike),
        )
        self.report = Reporter(folder, team)
        sharded = self.shards is not None
        self.engine = Engine(task, cfg, team, self.state, self.report.say, sharded=sharded)
        self.val_batch = None
        if val_batch is not None:
            self.val_batch = to_device(shard(val_batch, team.rank, team.world_size), team.device)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other training writes this folder meanwhile, nor has one left anything half done."""

        def take() -> None:
            self.root.mkdir(parents=True, exist_ok=True)
            held.append(Lock.take(self.folder / ".fit.lock"))
            tidy(self.folder)
            checkpoint.remove_leftovers(self.root)

        held: list[Lock] = []
        try:
            self.team.on_main(take)
            yield
        finally:
            for lock in held:
                lock.release()

    def newest(self) -> Path | None:
        """The newest checkpoint, whether intact or not."""
        return next(reversed(checkpoint.listed(self.root)), None)

    def resume(self, now: dict[str, Any]) -> None:
        """Load the newest valid checkpoint, if any, made under the conditions ``now``."""

        def find() -> tuple[Path, dict[str, Any]] | None:
            check_trackers(self.cfg.trackers)
            found = checkpoint.newest_valid(self.root, self.report.say)
            if found is not None:
                check_conditions(*found, now, self.report.say)
            return found

        self.state.conditions = now
        found = self.team.on_main(find)
        if found is not None:
            self.state.load(*found)

    def train(self, batches: BatchSource) -> None:
        """Go on to the goal, or to an interruption."""
        state, cfg = self.state, self.cfg
        self.team.on_main(self._preflight)
        self.engine.prepare()
        stream = batches.iterate(state.samples)
        earlier, began = state.seconds, time.monotonic()
        told = memory_is_told(self.folder, cfg, self.team.world_size, self.team.device)
        fits = misfits_are_told(self.task)
        with stop_on_signal() as stop, self.report.open(cfg, state), told, fits:
            try:
                if state.samples == 0:
                    with self.report.pause():
                        self.validate()
                while state.samples < self.goal:
                    stopping = self.engine.step(self._next(stream), stop)
                    state.seconds = earlier + time.monotonic() - began
                    self._cadence(stopping)
                    if stopping and state.samples < self.goal:
                        raise self._interruption(stop)
            finally:
                self.engine.close()
                if isinstance(stream, Generator):
                    stream.close()  # ends its worker processes

    def result(self) -> FitResult:
        """What `fit` returns."""
        state = self.state
        if self.shards is not None:
            state.unshard(self.shards)
        self.task.eval()
        records = read_metrics(self.folder / "metrics.jsonl", state.samples)
        history = [r for r in records if r["kind"] == "validation"]
        return FitResult(state.samples, state.last, history, state.seconds, state.ema)

    def _preflight(self) -> None:
        """Room on the disk, records only up to here, then the first lines."""
        state, keep = self.state, self.cfg.keep_last
        weights = list(state.params.values())
        one = [*weights * (4 if state.ema else 3), *state.buffers.values()]  # + two AdamW moments
        check_disk(self.root, one, keep, present=len(checkpoint.listed(self.root)))
        # From the start nothing stands, not even the validation at 0 samples of a run that died.
        truncate_records(self.folder / "metrics.jsonl", state.samples or -1)
        for file in (state.guard.file, state.spikes.file):
            truncate_records(file, state.samples - 1)  # these name the start of a step
        for line in summary(self.task, self.objectives, self.cfg, self.team, state.samples):
            self.report.say(line)

    def _cadence(self, stopping: bool) -> None:
        """What is due after a step: record, then validation, then checkpoint, so that whatever a
        checkpoint's run has logged lies before it."""
        state, cfg = self.state, self.cfg
        over = state.samples >= self.goal
        self.report.beat(state.samples)
        if self._due(cfg.log_every) or over:
            self.report.record(state)
        with self.report.pause():
            if self._due(cfg.validate_every) or over:
                self.validate()
            if self._due(cfg.save_every) or over or stopping:
                tensors = state.tensors(keep=self.team.is_main)
                self.team.on_main(lambda: state.save(self.root, cfg.keep_last, tensors))

    def _due(self, every: int) -> bool:
        """Whether the last step passed a multiple of ``every`` samples."""
        now = self.state.samples
        return now // every > (now - self.cfg.batch_size) // every

    def _interruption(self, stop: StopFlag) -> Interrupted:
        state = self.state
        return Interrupted(
            f"stopped at {state.samples:,} of {self.cfg.samples:,} samples and saved to "
            f"{checkpoint.folder_of(self.root, state.samples)}. Run the same command to go on",
            stop.signum or signal.SIGTERM,
        )

    def _next(self, stream: Iterator[Batch]) -> Batch:
        """The next batch on the device, of the size it must have."""
        batch = next(stream, None)
        local = self.cfg.batch_size // self.team.world_size
        if batch is None or len(batch["index"]) != local:
            got = "ended" if batch is None else f"gave {len(batch['index'])} samples"
            raise ValueError(
                f"the batch source {got} at {self.state.samples:,} samples where train.batch_size "
                f"{self.cfg.batch_size} needs {local} on each of {self.team.world_size} processes"
            )
        return to_device(batch, self.team.device)

    @torch.no_grad()
    def validate(self) -> None:
        """Score the held-out batch and draw samples: averaged weights if any, fixed noise."""
        if self.val_batch is None:
            return
        state, modes = self.state, {m: m.training for m in self.task.modules()}
        self.task.eval()
        with state.ema.swapped_in() if state.ema else nullcontext():
            parts, images = self._score(self.val_batch)
        for module, mode in modes.items():
            module.training = mode
        meter, alone = Meter(), self.team.world_size == 1
        for name, value in parts.items():
            meter.add(name, value, 1.0 if alone else len(self.val_batch["index"]))
        self.report.validation(state, meter.flush(self.team), images)

    def _score(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        ctx = self.engine.context(0, validation=True)
        ctx.seed_globals("validation")
        with torch.no_grad(), self.engine.autocast():
            return self.task.validate(batch, ctx), self.task.sample_grid(batch, ctx)
