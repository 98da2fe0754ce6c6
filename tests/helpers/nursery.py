"""Processes to be harmed, each for the price of a fork.

    with Nursery("faults.writing", log=tmp_path / "children.log") as nursery:
        child = nursery.start("faults.writing:fill", str(tmp_path / "store"), 3)
        child.kill()
        assert child.wait() == -signal.SIGKILL

A server process imports the modules once, which takes seconds, and forks a child for every call.
It has one thread, so that forking is safe, and so do the children. What they print goes to ``log``,
and what the server says of itself, should it not get to serve.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.orphans import end_with_parent

TESTS = Path(__file__).parents[1]
PATIENCE = 120.0
"""Seconds until a child that does not end is killed, and its test fails."""


@dataclass
class Child:
    """A process that carries out one call."""

    nursery: "Nursery"
    pid: int

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal; safe at any time before `wait`, which alone lets go of the pid."""
        os.kill(self.pid, signum)

    def wait(self) -> int:
        """Its exit code; negative: the signal that ended it. Code 1 is an exception, see the log.

        Raises AssertionError when it hangs."""
        code = self.nursery.ask(do="wait", pid=self.pid)
        assert code is not None, f"a child hangs:\n{self.nursery.said()}"
        return code


class Nursery:
    """See the module. Call arguments are JSON-able.

    Args:
        before: words before the server's command, which it starts in (unshare, sh).
    """

    def __init__(
        self,
        *modules: str,
        log: Path,
        env: dict[str, str] | None = None,
        before: Sequence[str] = (),
    ):
        self.log = log
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        with log.open("ab") as said:
            self._server = subprocess.Popen(
                [*before, sys.executable, "-m", "helpers.nursery", str(log), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | (env or {}),
            )

    def ask(self, **request: Any) -> Any:
        """The server's answer."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the nursery ended:\n{self.said()}"
        return json.loads(answer)

    def start(self, call: str, *args: Any, env: dict[str, str] | None = None) -> Child:
        """Begin ``module:function`` of ``args`` in a new process."""
        return Child(self, self.ask(do="start", call=call, args=args, env=env or {}))

    def run(self, call: str, *args: Any, env: dict[str, str] | None = None) -> int:
        """Exit code of a call that nobody harms from outside."""
        return self.start(call, *args, env=env).wait()

    def said(self) -> str:
        """The end of what children printed."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def __enter__(self) -> "Nursery":
        self.ask(do="nothing")  # all is imported
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:  # a test was interrupted while a child hung
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()


def _child(request: dict[str, Any], log: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request["env"])
    for fd, of in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(of, fd)
    code = 1
    try:
        module, _, name = request["call"].partition(":")
        code = getattr(importlib.import_module(module), name)(*request["args"]) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int | None:
    """An exit code; None after `PATIENCE`, and then the process is no more."""
    end = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def _serve(log_file: str, *modules: str) -> None:
    end_with_parent()
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which end this one
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            answer = os.fork()
            if answer == 0:
                _child(request, log)
        else:
            answer = _wait(request["pid"]) if request["do"] == "wait" else None
        print(json.dumps(answer), flush=True)
    os._exit(0)  # there is much to take apart, and nobody needs it


if __name__ == "__main__":
    _serve(*sys.argv[1:])
