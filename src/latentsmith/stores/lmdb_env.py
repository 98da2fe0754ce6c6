"""LMDB environments: one per file and process, none across a fork.

LMDB refuses to open a file twice in one process, and an environment that a child inherited by fork
must not be used. So stores of one process share environments, and a child closes what it inherited
before it does anything else: without locks that lets go of the child's own mapping, and leaves the
parent's alone.
"""

import contextlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from latentsmith.errors import UserError

_open: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
_lock = threading.Lock()  # two threads may ask for a file at once


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is no more may have held it
    for env in list(_open.values()):
        with contextlib.suppress(Exception):  # a child must start, whatever it inherited
            env.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_only(path: Path) -> Any:
    """The process's environment for reading ``path`` (a folder with data.mdb, or a file).

    Without lock files, as many processes as wish may read, also from a disk that is read-only; the
    store must be finished. Read-ahead stays on: with it, reading what is not in memory was six
    times as fast.

    Raises:
        UserError: it cannot be opened.
    """
    import lmdb

    key = str(path.resolve())
    with _lock:
        found = _open.get(key)
        if found is None:
            try:
                found = lmdb.open(
                    str(path), readonly=True, lock=False, subdir=path.is_dir(), create=False
                )
            except lmdb.Error as error:
                raise UserError(f"{path} cannot be opened as LMDB: {error}") from None
            _open[key] = found
    return found


def writable(path: Path, map_size: int) -> Any:
    """An environment for writing the folder ``path``; of one process at a time.

    Raises:
        UserError: it cannot be opened, for example because it is open for reading here.
    """
    import lmdb

    try:
        return lmdb.open(str(path), map_size=map_size)
    except lmdb.DiskError:
        raise  # a full disk has its own message
    except lmdb.Error as error:
        raise UserError(f"{path} cannot be written as LMDB: {error}") from None


class Environment:
    """A store's handle on its environment: opened on first use, opened anew in a child."""

    def __init__(self, path: Path):
        self.path = path
        self._held: tuple[int, Any] | None = None  # (process, environment)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_held": None}

    def here(self) -> Any:
        """This process's environment."""
        held = self._held  # one read: another thread may close meanwhile
        if held is None or held[0] != os.getpid():
            held = self._held = (os.getpid(), read_only(self.path))
        return held[1]

    def begin(self) -> Any:
        """A read transaction whose values are views of the mapping."""
        return self.here().begin(buffers=True)

    def close(self) -> None:
        """Let go; the file is closed when no other store of this process uses it."""
        self._held = None
