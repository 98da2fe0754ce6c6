"""What takes room on the disk and is not needed: found, then removed if asked to.

Only what this library wrote and can make again, or what no later command reads, is ever found;
nothing outside the cache and the run folders, and nothing that a live process holds.
"""

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentsmith.utils.cache import cache_root, forget, users_of
from latentsmith.utils.lock import Busy, Lock, is_held
from latentsmith.utils.run_folders import size_of

Sort = Literal["cache", "checkpoint", "last checkpoint", "old run"]

CACHES = ("stores", "references", "corpora")
"""Folders of the cache whose entries belong to settings of runs. Fetched data, judges and compiled
kernels serve all runs and are left alone."""
RECENT = 3600.0
"""Seconds during which an entry counts as being made."""
_ENTRY = re.compile(r"[\w.-]+-[0-9a-f]{16}")
_OLD = re.compile(r".+\.old-\d+")


@dataclass(frozen=True)
class Junk:
    """One thing that may go."""

    sort: Sort
    path: Path
    root: Path
    """The cache, or the run, that it must lie in."""
    size: int
    """Bytes."""


def idle_caches() -> list[Junk]:
    """Cache entries that no run relies on which is still there, wherever it lies. What was written
    to in the last hour may be in the making by several processes, which hold no lock."""
    root, recent = cache_root(), time.time() - RECENT
    entries = [e for kind in CACHES for e in sorted((root / kind).glob("*"))]
    own = [e for e in entries if _is_own_folder(e) and _ENTRY.fullmatch(e.name)]
    idle = [e for e in own if e.stat().st_mtime < recent and not users_of(e)]
    return [Junk("cache", entry, root, size_of(entry)) for entry in idle]


def old_checkpoints(run: Path, *, last: bool = False) -> list[Junk]:
    """Of a run that went through: checkpoints before a training's last one; with ``last`` that
    one too, after which the run cannot be trained longer. Runs that are not through keep all:
    they may have to go back to an older one."""
    if not (run / "finished.json").is_file():
        return []
    found = []
    for folder in sorted(run.glob("training/*/checkpoints")):
        saved = sorted(p for p in folder.iterdir() if _is_own_folder(p) and p.name.isdigit())
        found += [Junk("checkpoint", path, run, size_of(path)) for path in saved[:-1]]
        if last:
            found += [Junk("last checkpoint", path, run, size_of(path)) for path in saved[-1:]]
    return found


def old_runs(runs: Iterable[Path]) -> list[Junk]:
    """Runs that ``--fresh`` moved aside."""
    moved = (run for run in runs if _OLD.fullmatch(run.name) and _is_own_folder(run))
    return [Junk("old run", run, run, size_of(run)) for run in moved]


def remove(junk: Junk) -> str:
    """Remove it; what was in the way, "" if nothing.

    Held by a live process, no longer junk, or led out of its root by a link: it stays.
    """
    if not _is_own_folder(junk.path) or not _inside(junk):
        return "is not where it was"
    try:
        lock = Lock.take(_lock_of(junk))
    except Busy as busy:
        return f"is in use by {busy.who}"
    try:
        if junk.sort == "cache" and users_of(junk.path):
            return "is relied on by a run by now"
        if junk.sort == "checkpoint" and (problem := _broken_successor(junk.path)):
            return problem
        shutil.rmtree(junk.path)
        if junk.sort == "cache":
            forget(junk.path)
    except OSError as error:
        return f"cannot be removed: {error.strerror}"
    finally:
        lock.release()
    return ""


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _inside(junk: Junk) -> bool:
    return junk.path.resolve().is_relative_to(junk.root.resolve())


def _lock_of(junk: Junk) -> Path:
    """What a process holds that writes there."""
    if junk.sort == "cache":
        return junk.path.parent / f".{junk.path.name}.lock"  # as `lock.alone` names it
    return junk.root / "run.lock"


def _broken_successor(checkpoint: Path) -> str:
    """Why the last checkpoint cannot stand for this one."""
    from latentsmith.training.checkpoint import CorruptCheckpoint, listed, verify

    try:
        verify(listed(checkpoint.parent)[-1])
    except CorruptCheckpoint as error:
        return f"stays, the later one is damaged: {error}"
    return ""


def in_use(run: Path) -> bool:
    """Whether a live process writes the run."""
    return is_held(run / "run.lock")
