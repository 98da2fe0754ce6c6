"""Progress of a counted job: a bar on a terminal or in a notebook, else a line now and then."""

import sys
import time

from latentsmith.utils.distributed import rank
from latentsmith.utils.live import live_console

QUIET_SECONDS = 10.0
"""In a file or pipe, at most one line in this time."""


class Counter:
    """``with Counter("encoding", 1000) as count: count(done)``. Silent off the main process, and
    for jobs that end within a second.

    Args:
        label: what is being done.
        total: how many items there are.
    """

    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self._began = self._spoke = time.monotonic()
        self._live = None

    def __enter__(self) -> "Counter":
        if rank() == 0 and (console := live_console()):
            from rich.progress import Progress

            self._live = Progress(console=console, transient=True)
            self._live.start()
            self._task = self._live.add_task(self.label, total=self.total)
        return self

    def __call__(self, done: int) -> None:
        """``done`` items are finished, in all."""
        if self._live is not None:
            self._live.update(self._task, completed=done)
        elif rank() == 0 and time.monotonic() - self._spoke > QUIET_SECONDS:
            self._spoke = time.monotonic()
            left = (self._spoke - self._began) * (self.total - done) / max(done, 1)
            line = f"{self.label}: {done:,}/{self.total:,}, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
