"""Fresh processes for functions, each for the price of a fork.

    child = forked(work, 3, "folder")  # work: at module level, so that a new process can find it
    child.start()

Python's own fork server imports `helpers.loaded` once, which takes seconds. It has one thread and
has computed nothing: what it forks is as good as new.
"""

import functools
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from helpers.orphans import end_with_parent

TESTS = Path(__file__).parents[1]


def forked(work: Callable[..., Any], *args: Any) -> ForkServerProcess:
    """``work(*args)`` in a process to be started, with this one's environment, on one thread."""
    return _server().Process(target=_child, args=(dict(os.environ), work, args))


def _child(environment: dict[str, str], work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*args)


@functools.cache
def _server() -> ForkServerContext:
    """Started with a path of its own: it does not take over ``sys.path``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.loaded"])
    before = dict(os.environ)
    path = filter(None, [str(TESTS), before.get("PYTHONPATH")])
    os.environ |= {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context
