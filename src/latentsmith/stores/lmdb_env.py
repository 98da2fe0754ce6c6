"""LMDB environments: one per file and process, none across a fork.

LMDB refuses to open a file twice in one process, and an environment that a child inherited by fork
must not be used. So stores of one process share environments, and a child closes what it inherited
before it does anything else: without locks that lets go of the child's own mapping, and leaves the
parent's alone.
"""

import contextlib
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
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
        UserError: it cannot be opened, or was cut off.
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
            _refuse_cut_off(path, found)
            _open[key] = found
    return found


def _refuse_cut_off(path: Path, env: Any) -> None:
    """A mapped file that is too short kills the process that reads beyond its end. (One may lack
    pages at its end that are free, and be whole.)"""
    file = path / "data.mdb" if path.is_dir() else path
    whole = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    size = file.stat().st_size
    if size < whole and (why := what_kills(path)):
        env.close()
        raise UserError(
            f"{file} is damaged: it has {size:,} bytes instead of {whole:,} ({why}). Copy it "
            f"again, or {AGAIN}"
        )


AGAIN = "remove it and run the command that wrote it again"

_WALK = """
import sys, lmdb
env = lmdb.open(sys.argv[1], readonly=True, lock=False, subdir=sys.argv[2] == "1", create=False)
with env.begin(buffers=True) as txn:
    for key, value in txn.cursor():
        if len(value):
            value[0], value[-1]
"""


def what_kills(path: Path) -> str:
    """Why an LMDB file cannot be read to its end; empty when it can. LMDB follows what a damaged
    page says without looking, so another process goes first."""
    done = subprocess.run(
        [sys.executable, "-c", _WALK, str(path), str(int(path.is_dir()))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode < 0:
        return f"reading it ends with signal {-done.returncode}"
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@contextlib.contextmanager
def damage_is_told(path: Path) -> Iterator[None]:
    """Raises UserError, with the store's place, for what LMDB or the store's own records say when
    bytes in them have changed."""
    import lmdb

    try:
        yield
    except (lmdb.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {AGAIN}") from None


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
