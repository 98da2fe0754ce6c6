"""Writing files so that a crash at any instant leaves the old one or the new one, never half."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentsmith.errors import UserError


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a number of its own: on a shared disk, processes of two machines may have one id
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield tmp
        with tmp.open("rb") as f:
            os.fsync(f.fileno())
        tmp.replace(path)
        fsync_folder(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success fsync its files and rename it.

    An existing ``path`` is replaced: it is moved aside, and removed only after the new one stands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        yield tmp
        for file in tmp.rglob("*"):
            if file.is_file():
                with file.open("rb") as f:
                    os.fsync(f.fileno())
        if path.exists():
            path.replace(old)
        tmp.replace(path)
        fsync_folder(path.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def move_aside(path: Path) -> Path:
    """Rename ``path`` to the first ``<name>.old-1``, ``.old-2`` … that is free; gives that."""
    n = 1
    while (target := path.with_name(f"{path.name}.old-{n}")).exists():
        n += 1
    path.rename(target)
    return target


def write_json(path: Path, value: Any) -> None:
    """Atomic, indented, newline-ended. NaN is refused: JSON has none."""
    with atomic_path(path) as tmp:
        tmp.write_text(json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


def remove_abandoned(folder: Path, names: set[str]) -> None:
    """Remove what `atomic_path` was writing to these files of ``folder`` in processes that were
    killed."""
    for tmp in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\.(.+)\.(\d+)\.[0-9a-f]+\.tmp", tmp.name)
        if found and found[1] in names and not _alive(int(found[2])):
            tmp.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def require_free(folder: Path, needed: int, what: str, remedy: str) -> None:
    """Refuse to begin what will not fit.

    Args:
        folder: where; it exists.
        needed: bytes.
        what: "for checkpoints of 3.0 MB".
        remedy: what a user can do besides freeing some.

    Raises:
        UserError: with the numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{needed / 1e6:,.1f} MB are needed in {folder} {what}, but only {free / 1e6:,.1f} MB "
            f"are free: free some, {remedy}"
        )


FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def full_disk_is_told(folder: Path, remedy: str) -> Iterator[None]:
    """Turn the many errors of a full disk (also those of safetensors and LMDB, which are not
    OSError) into a UserError that ends with ``remedy``."""
    try:
        yield
    except Exception as error:
        told = re.search(r"os error (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        free = shutil.disk_usage(folder).free
        full = number in FULL or os.strerror(errno.ENOSPC) in str(error)
        # LMDB says this when only a part of what it wrote fitted
        cut_short = os.strerror(errno.EIO) in str(error) and free < 1 << 20
        if not full and not cut_short:
            raise
        told_free = f"{free / 1e6:,.1f} MB free"
        raise UserError(f"the disk of {folder} is full ({told_free}): {remedy}") from error
