"""Stages that need nothing of each other, done side by side on CPU cores.

OpenMP cuts every kernel of a training into parts and waits for the slowest: small models gain
little from a second thread (docs/results/mmreg-laptop.md, "Time", has the numbers).
"""

import contextlib
import ctypes
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentsmith.config.run import Run
    from latentsmith.recipes.base import Stage

log = logging.getLogger(__name__)

BESIDE = "LATENTSMITH_BESIDE"
"""The pid of a command whose run is open, where ``latentsmith train`` does a stage of it."""
_PR_SET_PDEATHSIG = 1
_PATIENCE = 10.0
"""Seconds for the last lines of a process that is over; one that it started may keep them open."""


def grouped(stages: "list[Stage]") -> "list[list[Stage]]":
    """The stages in order, neighbours of one ``abreast`` group together."""
    found = itertools.groupby(stages, key=lambda stage: stage.abreast or stage.name)
    return [list(group) for _, group in found]


def share(run: "Run", group: "list[Stage]") -> int:
    """Threads for each stage of a group that goes side by side; 0: one after the other.

    That is what happens where side by side would gain nothing or get in the way of others: one
    thread, a GPU, a launcher's processes, or a sweep, whose parts may be side by side already.
    """
    if len(group) < 2 or run.shared is not None or "WORLD_SIZE" in os.environ:
        return 0
    import torch

    threads = torch.get_num_threads()
    if torch.cuda.is_available() or threads < len(group):
        return 0
    return threads // len(group)


def side_by_side(run: "Run", stages: "list[Stage]", marks: dict[str, str], threads: int) -> None:
    """Do stages at once, each in a process of its own, whose lines begin with the stage's name.

    Args:
        run: opened; the processes hold its lock, too.
        marks: stage → what lines on it as a whole begin with.
        threads: for each stage. What is left of a group that was stopped gets no more of them, so
            that numbers do not depend on where that was.

    Raises:
        UserError: what the first process that failed had to say. The others save and stop.
        Interrupted: Ctrl-C or SIGTERM, after all have saved.
    """
    from latentsmith.cli._pipeline import announce, clock
    from latentsmith.training.stopping import Interrupted, stop_on_signal

    for stage in stages:
        announce(run, stage, marks[stage.name])
    names = [stage.name for stage in stages if not run.stage_done(stage.name)]
    if not names:
        return
    log.info("%s: side by side, each with threads: %d", " and ".join(names), threads)
    failed: _Worker | None = None
    stopped = False
    with stop_on_signal() as stop:
        workers: list[_Worker] = []
        try:
            for name in names:
                workers.append(_Worker.start(run, name, threads))
            while running := [worker for worker in workers if not worker.over]:
                time.sleep(0.1)
                for worker in running:
                    if worker.ended():
                        log.info("%s: %s", marks[worker.name], clock(worker.seconds))
                    if worker.code and not stopped:
                        failed = failed or worker
                if (stop or failed) and not stopped:
                    stopped = True
                    for worker in workers:
                        worker.stop(stop.signum or signal.SIGTERM)
        finally:
            for worker in workers:
                worker.close()
    if stop:
        raise Interrupted("stopped; what was trained is saved", stop.signum)
    if failed is not None:
        raise failed.error(run)


@dataclass
class _Worker:
    """A process that does one stage."""

    name: str
    process: "subprocess.Popen[str]"
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    over: bool = False
    lines: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.lines = threading.Thread(target=self._pass_on, daemon=True)
        self.lines.start()

    @classmethod
    def start(cls, run: "Run", name: str, threads: int) -> "_Worker":
        env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        env |= {"PYTHONIOENCODING": "utf-8", BESIDE: str(os.getpid())}
        words = ["train", f"{run.config.kind}.{name}", "--out", str(run.path)]
        words += ["--debug"] if log.isEnabledFor(logging.DEBUG) else []
        process = subprocess.Popen(
            [sys.executable, "-m", "latentsmith", *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            pass_fds=run.held(),
            start_new_session=True,  # Ctrl-C reaches it through `stop` alone, once
        )
        return cls(name, process)

    def _pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip():
                with contextlib.suppress(OSError):  # nobody listens: it must not wait for room
                    # one piece, or the other worker's may come before its end
                    sys.stderr.write(f"{self.name}: {line.rstrip()}\n")
                    sys.stderr.flush()

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self.process.returncode

    def ended(self) -> bool:
        """Whether it is over now; all it said has been passed on by then."""
        if self.process.poll() is None:
            return False
        self.lines.join(_PATIENCE)
        self.over, self.seconds = True, time.monotonic() - self.began
        return True

    def stop(self, signum: int) -> None:
        """Ask it to save and end."""
        if self.process.poll() is None:
            self.process.send_signal(signum)

    def close(self) -> None:
        """Leave nothing of it behind, however it ends."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.lines.join(_PATIENCE)

    def error(self, run: "Run") -> Exception:
        """What ended it, as it would have been raised here."""
        from latentsmith.errors import UserError

        note = run.path / "failed.json"
        if note.is_file():
            return UserError(str(json.loads(note.read_text())["error"]))
        code = self.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return UserError(
            f"stage {self.name}: its process ended with {how}"
            + (", as when memory runs out" if code == -signal.SIGKILL else "")
            + ". The same command goes on; with OMP_NUM_THREADS=1 one stage after the other"
        )


def take_part(path: Path, name: str) -> None:
    """Do one stage of a run that another process of this command has opened, and end with it."""
    from latentsmith.cli._pipeline import carry_on, prepare
    from latentsmith.config.run import Run

    _end_with(int(os.environ[BESIDE]))
    prepare()
    with Run.beside(path) as run:
        carry_on(run, {stage.name: stage for stage in run.config.stages()}[name])


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when the one that started it is no more. Elsewhere than on
    Linux it ends at its next line, which nobody reads."""
    from latentsmith.errors import UserError

    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # that was before the kernel was asked
        raise UserError(
            f"the command that this process was to help, {parent}, is no more. {BESIDE} is for"
            " such helpers alone: unset it to train a stage"
        )
