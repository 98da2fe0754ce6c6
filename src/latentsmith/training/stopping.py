"""Ctrl-C and SIGTERM end training after the current step, with a checkpoint."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved.

    The command line prints the message and exits with ``exit_code`` (130 for Ctrl-C).
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


class StopFlag:
    """Set by the first signal. A second one acts as it would without us."""

    def __init__(self) -> None:
        self.signum = 0

    def __bool__(self) -> bool:
        return self.signum != 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Yield a flag that SIGINT and SIGTERM set; handlers are put back at the end.

    Only the main thread may install handlers; elsewhere the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) or signal.SIG_DFL for s in signals}

    def restore() -> None:
        for signum, handler in before.items():
            signal.signal(signum, handler)

    def handle(signum: int, frame: FrameType | None) -> None:
        flag.signum = signum
        restore()
        again = "Ctrl-C again" if signum == signal.SIGINT else "once more"
        print(f"\nfinishing this step, then saving ({again}: stop at once)", file=sys.stderr)

    for signum in before:
        signal.signal(signum, handle)
    try:
        yield flag
    finally:
        restore()
