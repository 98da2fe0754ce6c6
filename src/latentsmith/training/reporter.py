"""What a training tells: records, status lines, sample grids."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from latentsmith.training.config import TrainConfig
from latentsmith.training.grids import save_grid
from latentsmith.training.progress import Progress
from latentsmith.training.state import TrainState
from latentsmith.training.team import Team
from latentsmith.training.trackers import Tracker, open_trackers


class Reporter:
    """Trackers, progress and grids of one training. Only the main process writes and talks; the
    others take part in the averages."""

    def __init__(self, folder: Path, team: Team):
        self.folder, self.team = folder, team
        self._trackers: list[Tracker] = []
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """A line on standard error, beside the status line if there is one."""
        if self._progress is not None:
            self._progress.say(text)
        elif self.team.is_main:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def open(self, cfg: TrainConfig, state: TrainState) -> Iterator[None]:
        """Trackers and status line are open inside."""
        quiet = not self.team.is_main
        self._mark, self._paused = (time.monotonic(), state.samples), 0.0
        try:
            if self.team.is_main:
                self._trackers = open_trackers(
                    cfg.trackers, self.folder, state.samples, state.conditions
                )
            self._progress = Progress(cfg.samples, state.samples, self.team.device, quiet=quiet)
            yield
        finally:
            if self._progress is not None:
                self._progress.close()
                self._progress = None
            with contextlib.ExitStack() as closing:  # all of them, whatever one has to say
                for tracker in self._trackers:
                    closing.callback(tracker.close)
            self._trackers = []

    def beat(self, samples: int) -> None:
        """Every step; cheap."""
        if self._progress is not None:
            self._progress.beat(samples)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside does not count against the speed of training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def record(self, state: TrainState) -> None:
        """Average what the meter holds, write it, show it; remember it as ``state.last``."""
        values = state.meter.flush(self.team)
        if not values:  # every step since the last record was skipped
            return
        state.last = values
        now, (then, before) = time.monotonic(), self._mark
        speed = (state.samples - before) / max(now - then - self._paused, 1e-9)
        self._mark, self._paused = (now, state.samples), 0.0
        extra = {s.name: s.lr(state.samples) for s in state.steppers}
        extra = {f"{name}/lr": lr for name, lr in extra.items()} | {"samples_per_second": speed}
        for tracker in self._trackers:
            tracker.log("train", state.samples, values | extra)
        if self._progress is not None:
            self._progress.show(state.samples, _shown(values, len(state.steppers)), speed)

    def validation(
        self, state: TrainState, values: dict[str, float], images: Tensor | None
    ) -> None:
        """Write a validation's numbers and its grid (samples/<samples>.png)."""
        for tracker in self._trackers:
            tracker.log("validation", state.samples, values)
        if self.team.is_main and images is not None:
            save_grid(images, self.folder / "samples" / f"{state.samples:012d}.png")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        weights = "averaged weights" if state.ema is not None else "weights"
        self.say(f"{state.samples:,} samples, validation of the {weights}: {shown}")


def _shown(values: dict[str, float], objectives: int, most: int = 6) -> dict[str, float]:
    """What fits a line: losses first come, and no objective's name where there is only one."""
    parts = {n: v for n, v in values.items() if not n.endswith("/grad_norm")}
    names = list(parts)[:most]
    return {(n.split("/", 1)[1] if objectives == 1 else n): parts[n] for n in names}
