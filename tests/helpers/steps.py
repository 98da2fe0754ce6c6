"""Every step a process takes on the disk, numbered; and dying at one of them.

    count = die_at(folder, 7)      # SIGKILL at its seventh step below ``folder``
    around(Engine, "step")         # begin and end of a call are steps, too
    …
    count()                        # how many there were

Steps are what Python itself does to a file or folder (open to write, rename, link, remove, make),
and both sides of every fsync: a process killed between two of them leaves the disk in the same
state wherever exactly it was. Writing itself has no steps; kills by the clock fall into it.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = {
    "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate",
    "shutil.rmtree",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_step: Callable[[str], None] | None = None


def die_at(folder: Path | str, number: int | None) -> Callable[[], int]:
    """Number the steps below ``folder`` from now to the end of this process, and kill it at the
    given one (None: never). Once in a process; gives what tells how many there were."""
    global _step
    root, seen = str(folder), [0]

    def step(what: str) -> None:
        seen[0] += 1
        if seen[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            opened, mode, flags = args
            writes = bool(flags & _WRITES) or set(mode or "") & set("wax+")
            if writes and _below(root, opened):
                step(event)
        elif event in CHANGES and any(_below(root, path) for path in args[:2]):
            step(event)

    _step = step
    sys.addaudithook(hook)
    around(os, "fsync")
    return lambda: seen[0]


def around(owner: Any, name: str) -> None:
    """Make begin and end of ``owner.name(…)`` steps; after `die_at`."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        assert _step is not None
        _step(f"{name} begins")
        result = real(*args, **kwargs)
        _step(f"{name} ended")
        return result

    setattr(owner, name, wrapped)


def _below(root: str, path: object) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(root)
