"""One status line: where training stands, how fast, until when."""

import resource
import sys
import time

import torch

from latentsmith.utils.live import live_console

HEARTBEAT = 60.0
"""Seconds after which a line is printed even between records, so that slow is not silent."""


class Progress:
    """A live line on a terminal or in a notebook, else plain lines. Silent off the main process.

    Args:
        total: samples of the whole run; ``start``: samples already seen when this session began.
    """

    def __init__(self, total: int, start: int, device: torch.device, *, quiet: bool = False):
        self.total, self.first, self.device, self.quiet = total, start, device, quiet
        self._began = self._spoke = time.monotonic()
        self._live = None
        if not quiet and (console := live_console()):
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.description}"),
            )
            self._live = Bar(*columns, console=console, transient=False)
            self._live.start()
            self._bar = self._live.add_task("starting", total=total, completed=start)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
        self._spoke = time.monotonic()

    def speed(self, samples: int) -> float:
        """Samples per second since this session began."""
        return (samples - self.first) / max(time.monotonic() - self._began, 1e-9)

    def show(self, samples: int, values: dict[str, float], speed: float) -> None:
        """The status line with fresh numbers. ``speed`` in samples per second."""
        parts = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._line(samples, f"{parts}  {speed:,.0f} samples/s  {self._outlook(samples)}")

    def beat(self, samples: int) -> None:
        """Called every step: moves the bar; prints when nothing was said for a while."""
        if self._live is not None:
            self._live.update(self._bar, completed=samples)
        elif not self.quiet and time.monotonic() - self._spoke > HEARTBEAT:
            self._line(samples, f"{self.speed(samples):,.1f} samples/s  {self._outlook(samples)}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def _outlook(self, samples: int) -> str:
        left = (self.total - samples) / max(self.speed(samples), 1e-9)
        return f"ETA {clock(left)}  {memory_gb(self.device):.2f} GB"

    def _line(self, samples: int, text: str) -> None:
        where = f"{samples:,}/{self.total:,} samples"
        if self._live is not None:
            self._live.update(self._bar, completed=samples, description=f"{where}  {text}")
        else:
            self.say(f"{where}  {text}")


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(round(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: of the device on CUDA, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
