"""LMDB environments: one per file and process, none across a fork.

LMDB refuses to open a file twice in one process, and an environment that a child inherited by fork
must not be used (it may crash the child). So environments are shared within a process, keyed by
its id, and a child opens its own; what it inherited it neither uses nor closes.
"""

import os
import weakref
from pathlib import Path
from typing import Any

from latentsmith.errors import UserError

_open: "weakref.WeakValueDictionary[tuple[int, str], Any]" = weakref.WeakValueDictionary()
_inherited: list[Any] = []


def read_only(path: Path) -> Any:
    """The process's environment for reading ``path`` (a folder with data.mdb, or a file).

    Without lock files, as many processes as wish may read, also from a disk that is read-only; the
    store must be finished. Read-ahead stays on: with it, reading what is not in memory was six
    times as fast.

    Raises:
        UserError: it cannot be opened.
    """
    import lmdb

    key = (os.getpid(), str(path.resolve()))
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
    except lmdb.Error as error:
        raise UserError(f"{path} cannot be written as LMDB: {error}") from None


class Environment:
    """A process's handle on an environment for reading, opened on first use, remade in a child."""

    def __init__(self, path: Path):
        self.path = path
        self._pid, self._env = -1, None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_pid": -1, "_env": None}

    def begin(self) -> Any:
        """A read transaction whose values are views of the mapping."""
        env = self._env  # one read: another thread may close meanwhile
        if env is None or self._pid != os.getpid():
            if env is not None:
                _inherited.append(env)  # kept for ever: closing it belongs to the parent
            env = self._env = read_only(self.path)
            self._pid = os.getpid()
        return env.begin(buffers=True)

    def close(self) -> None:
        """Let go; the file is closed when no other store of this process uses it."""
        if self._env is not None and self._pid != os.getpid():
            _inherited.append(self._env)
        self._env = None
