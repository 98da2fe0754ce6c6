"""Steps whose losses stand out, and the samples they came from.

Each loss part x has a running mean m and deviation s over the last steps. A step of

    x > m + train.spike · max(s, m / 1000)

on any process goes to spikes.jsonl. Nothing is skipped and nothing is trained otherwise: it is a
list to look at. The values are fetched together with the question whether the step is finite, so
it costs no wait for the device.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentsmith.training.guard import sample_ids
from latentsmith.training.task import Batch

HORIZON = 100
"""Steps over which mean and deviation run; nothing is judged before."""
FLAT = 1e-3
"""Deviations below this share of the mean are rounding: a thousandth above is no spike."""


@dataclass
class Level:
    """Running mean and variance of one loss part, over steps and processes.

    Equal weights over the first `HORIZON` steps, exponential ones from there.
    """

    steps: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @property
    def deviation(self) -> float:
        """What counts as one deviation."""
        return max(math.sqrt(self.variance), FLAT * abs(self.mean))

    def bound(self, limit: float) -> float:
        """The largest value that does not stand out; infinite while too little was seen, and of
        what was constant so far (a loss that has not begun)."""
        known = self.steps >= HORIZON and self.variance > 0
        return self.mean + limit * self.deviation if known else math.inf

    def add(self, values: Sequence[float]) -> None:
        """Count one step's values, one of each process."""
        if self.steps > 1 and self.variance == 0 and set(values) != {self.mean}:
            self.steps = 0  # it begins
        self.steps += 1
        w, mean = max(1 / self.steps, 1 / HORIZON), sum(values) / len(values)
        within = sum((x - mean) ** 2 for x in values) / len(values)
        off = mean - self.mean
        self.mean += w * off
        self.variance = (1 - w) * (self.variance + w * off**2) + w * within


@dataclass
class Spikes:
    """Watches the loss parts of every finite step.

    All processes see the same values and keep the same statistics, so that a checkpoint, which the
    main one writes, holds everybody's.

    Attributes:
        file: spikes.jsonl of the run; a record per step, objective and process.
        limit: deviations above the mean that stand out; None: nothing is watched.
        count: steps that stood out.
        levels: "<objective>/<part>" → its running statistics.
        processes: how many they are of; the losses of smaller batches vary more.
    """

    file: Path
    limit: float | None
    count: int = 0
    levels: dict[str, Level] = field(default_factory=dict)
    processes: int = 0

    def look(
        self,
        objective: str,
        parts: Sequence[dict[str, float]],
        batch: Batch,
        samples: int,
        rank: int,
    ) -> str | None:
        """Judge one step, and learn from it.

        Args:
            parts: name → value of each process, this one's at ``rank``.
            batch: this process's.
            samples: seen before the step.

        Returns:
            A warning, the first time anything stands out.
        """
        if self.limit is None:
            return None
        if len(parts) != self.processes:
            self.levels, self.processes = {}, len(parts)
        own = {name: f"{objective}/{name}" for name in parts[0]}
        if not self.levels.keys() >= {*own.values()}:
            # a part begins (a discriminator's judgement), and the loss with it is another
            self.levels |= {n: Level() for n in own.values()}
        found: list[dict[str, Any]] = [{} for _ in parts]
        for name, full in own.items():
            values = [p[name] for p in parts]
            if all(map(math.isfinite, values)):
                self._judge(name, self.levels[full], values, found)
        if not any(found):
            return None
        self.count += 1
        if found[rank]:
            self._write(objective, found[rank], batch, samples, rank)
        return self._warning(objective, found, samples) if self.count == 1 else None

    def _judge(
        self, name: str, level: Level, values: list[float], found: list[dict[str, Any]]
    ) -> None:
        assert self.limit is not None
        most, facts = level.bound(self.limit), {"mean": level.mean, "deviation": level.deviation}
        for process, value in enumerate(values):
            if value > most:
                found[process][name] = {"value": value, **facts}
        # cut off there, a spike does not hide the next; a level that has risen for good is learnt
        # within a few steps all the same, since each adds to the deviation
        level.add([min(value, most) for value in values])

    def _write(
        self, objective: str, parts: dict[str, Any], batch: Batch, samples: int, rank: int
    ) -> None:
        record = {
            "samples": samples,
            "objective": objective,
            "rank": rank,
            "parts": parts,
            "index": sample_ids(batch),
        }
        with self.file.open("a") as f:
            f.write(json.dumps(record) + "\n")

    def _warning(self, objective: str, found: list[dict[str, Any]], samples: int) -> str:
        name, facts = next(iter(next(parts for parts in found if parts).items()))
        return (
            f"WARNING: {objective}/{name} was {facts['value']:.4g} in the step after {samples:,} "
            f"samples, and {facts['mean']:.4g} ± {facts['deviation']:.2g} before. This step and "
            f"others like it (train.spike={self.limit:g}) are listed with their sample ids in "
            f"{self.file}. Look at what is cached of these samples, a teacher's tokens first "
            "(`latentsmith cache verify`)"
        )

    def state(self) -> dict[str, Any]:
        """JSON-able, exact."""
        levels = {n: [v.steps, v.mean, v.variance] for n, v in self.levels.items()}
        return {"count": self.count, "processes": self.processes, "levels": levels}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`; of a checkpoint from before there was any, start anew."""
        self.count, self.processes = state.get("count", 0), state.get("processes", 0)
        self.levels = {name: Level(*kept) for name, kept in state.get("levels", {}).items()}
