"""No process of a test outlives the tests, however these end.

Nothing here imports latentsmith: `helpers.stranger` forbids it, `helpers.third_party` goes without.
"""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it is no more: a server when the
    tests are killed, and what it forked with it. Elsewhere than on Linux it goes on to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
