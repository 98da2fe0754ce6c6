"""One writer at a time, of a run's folder or of a file that several runs share."""

import errno
import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from latentsmith.errors import UserError
from latentsmith.utils.patience import Pauses

log = logging.getLogger(__name__)


class Busy(UserError):
    """Another live process holds the lock.

    Attributes:
        who: it, in words.
    """

    def __init__(self, path: Path, text: str):
        held = _holder(text)
        self.who = (
            f"process {held['pid']} on {held['host']}" if "pid" in held else "another process"
        )
        super().__init__(
            f"{path.parent} is being written by {self.who}. Wait for it, stop it, or use another "
            "folder with --out FOLDER."
        )


@dataclass
class Lock:
    """A lock this process holds until `release` or its end, however it ends.

    The kernel's ``flock`` decides: a killed process leaves no lock behind, so there is nothing
    stale to guess about. The file's text (pid, host) is there for the message. Where the file
    system has no ``flock``, the pid in the file decides: gone means stale.
    """

    path: Path
    fd: int
    _held: ClassVar[dict[Path, tuple[int, int]]] = {}  # path → (fd, holders in this process)

    @classmethod
    def take(cls, path: Path) -> "Lock":
        """Raises `Busy` when another live process holds it."""
        path = path.resolve()
        if path in cls._held:
            fd, holders = cls._held[path]
            cls._held[path] = fd, holders + 1
            return cls(path, fd)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(fd, 4096, 0).decode(errors="replace")
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(fd)
                raise Busy(path, text) from None
            log.warning("%s has no file locks; going by process ids", path.parent)
            if _alive(text):
                os.close(fd)
                raise Busy(path, text) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, signature().encode(), 0)
        cls._held[path] = fd, 1
        return cls(path, fd)

    @classmethod
    def wait(cls, path: Path, seconds: float = 1.0) -> "Lock":
        """`take`, asking again while another process holds it, in the end every so many seconds."""
        said, pauses = False, Pauses(longest=seconds)
        while True:
            try:
                return cls.take(path)
            except Busy as busy:
                if not said:
                    log.info("waiting: %s is being made by %s", path.stem.lstrip("."), busy.who)
                said = True
            pauses.sleep()

    def release(self) -> None:
        """Give it up. The file stays: removing it would race with the next taker."""
        fd, holders = self._held.pop(self.path, (None, 0))
        if fd is None:
            return
        if holders > 1:
            self._held[self.path] = fd, holders - 1
            return
        os.ftruncate(fd, 0)
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock at ``path``, without getting in anybody's way: it is
    asked for only where the file names a process that may live."""
    try:
        with path.open("rb") as file:
            if not _alive(file.read(4096).decode(errors="replace")):
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except OSError as error:
        return not isinstance(error, FileNotFoundError)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else who asks makes ``path`` (a file or folder) meanwhile; waits while one does.

    The lock lies beside it, hidden, so that ``path`` itself may be removed and made anew. Where
    nothing can be written nobody makes anything, and there is nothing to wait for.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock.wait(path.parent / f".{path.name}.lock")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def first_alone(path: Path) -> Iterator[None]:
    """Who comes first is through before anybody else begins; those who waited then go on together.

    For what the first one makes, and the others only find and read. The kernel wakes them, however
    long it takes and however it ends: who raises, or is killed, holds up nobody. On a disk that
    cannot be written, or knows no locks, all go at once.

    Args:
        path: what is made; the lock lies beside it, hidden. Processes that do not share its disk do
            not wait for each other.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = (path.parent / f".{path.name}.lock").open("ab")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        yield
        return
    with file:
        _first_or_after(file.fileno(), path.name)
        try:
            yield
        finally:  # not by closing alone: a child that was forked meanwhile has the file open, too
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


def _first_or_after(fd: int, name: str) -> None:
    """Lock the file for this process alone, or, when another one has it, with all who wait."""
    for how in (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_SH):
        if how == fcntl.LOCK_SH:
            log.info("waiting: %s is being made by another process", name)
        try:
            fcntl.flock(fd, how)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                log.debug("no file locks for %s: %s", name, error)
                return


def _holder(text: str) -> dict[str, object]:
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def signature() -> str:
    """What a process writes into a file that is its own while it lives."""
    return json.dumps({"pid": os.getpid(), "host": platform.node()})


def names_the_dead(text: str) -> bool:
    """Whether a `signature` is of a process that is known to be no more; of another machine's
    nothing is known."""
    return "pid" in _holder(text) and not _alive(text)


def _alive(text: str) -> bool:
    """Whether the process named in a lock file may still run. Of another machine's processes
    nothing can be known, so they count as alive."""
    holder = _holder(text)
    if "pid" not in holder:
        return False
    if holder.get("host") != platform.node():
        return True
    return is_running(int(str(holder["pid"])))


def is_running(pid: int) -> bool:
    """Whether a process of this machine lives; one that has ended and is not waited for yet does
    not."""
    try:
        os.kill(pid, 0)
        # after the name, which may hold anything, comes the state
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or no such file system
        return True
    return state not in "ZX"
