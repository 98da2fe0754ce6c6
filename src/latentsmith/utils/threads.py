"""Threads and other people's processes do not mix: say so before hours are lost."""

import math
import os
import time

import torch

_STARTED = time.monotonic()


def own_load() -> float:
    """This process's part of the one-minute load average, estimated from its CPU time."""
    uptime = max(time.monotonic() - _STARTED, 1e-3)
    return time.process_time() / uptime * (1 - math.exp(-uptime / 60))


def thread_warning() -> str | None:
    """A sentence when OpenMP threads will fight with other busy processes, else None.

    OpenMP cuts each kernel into equal parts and waits for the slowest, spinning. When another
    process holds one of the cores, that thread is always late: two threads on two cores beside one
    busy process were measured 20 times slower than one thread.
    """
    cores = os.cpu_count() or 1
    threads = torch.get_num_threads()
    others = max(os.getloadavg()[0] - own_load(), 0.0)
    if threads == 1 or others + threads <= cores + 0.5:
        return None
    free = max(1, int(cores - round(others)))
    return (
        f"{threads} OpenMP threads on {cores} cores with a load average of {others:.1f} from other "
        f"processes: threads that wait for each other can be 20 times slower than one. Set "
        f"OMP_NUM_THREADS={free}"
    )
