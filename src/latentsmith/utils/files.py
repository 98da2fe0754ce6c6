"""Writing files so that a crash at any instant leaves the old one or the new one, never half."""

import contextlib
import errno
import json
import os
import re
import resource
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from posixpath import isabs, normpath
from typing import Any

from latentsmith.errors import UserError
from latentsmith.utils.lock import is_running


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _aside(path: Path, kind: str) -> Path:
    """A hidden name beside ``path`` that is this call's alone: on a shared disk, processes of two
    machines may have one id."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.{kind}")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place.

    Raises:
        OSError: whatever the disk has against it; a full one always with errno and ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = _aside(path, "tmp")
    try:
        with _full_disk_has_an_errno(path):
            yield tmp
            with tmp.open("rb") as f:
                os.fsync(f.fileno())
            tmp.replace(path)
            fsync_folder(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success fsync all that is in it and rename it.

    An existing ``path`` is replaced: it is moved aside, and removed only after the new one stands.
    What a killed process left moved aside, `tidy` puts back.

    Raises:
        OSError: as `atomic_path`; ``path`` is what it was then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp, old = _aside(path, "tmp"), _aside(path, "old")
    tmp.mkdir()
    try:
        with _full_disk_has_an_errno(path):
            yield tmp
            _fsync_all(tmp)
            try:
                if path.exists():
                    path.replace(old)
                tmp.replace(path)
            except BaseException:
                if old.exists() and not path.exists():
                    old.replace(path)
                raise
            fsync_folder(path.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _fsync_all(folder: Path) -> None:
    """Files below a folder, and the folders that name them."""
    for where, _, names in os.walk(folder):
        for name in names:
            with Path(where, name).open("rb") as f:
                os.fsync(f.fileno())
        fsync_folder(Path(where))


def leads_out(name: str) -> bool:
    """Whether a file's name in a list leads out of the folder it is relative to. By its letters
    alone: links that lie in the folder were put there by who may write it."""
    return isabs(name) or normpath(name).split("/")[0] == ".."


def make_folder(path: Path) -> list[Path]:
    """Make a folder and those above it; gives those that were not there, the innermost first.

    Raises:
        UserError: it cannot be made.
    """
    missing = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing.append(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(told(error) or f"the folder {path} cannot be made: {error}") from error
    return missing


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


_ASIDE = re.compile(r"\.(.+)\.(\d+)\.[0-9a-f]+\.(tmp|old)")

_SAFETENSORS = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""What safetensors writes to before it renames; whose it is cannot be told."""


def remove_abandoned(folder: Path, names: set[str], *, alone: bool = False) -> None:
    """Remove what `atomic_path` was writing to these files of ``folder`` in processes that were
    killed.

    Args:
        alone: nobody else writes there, and nothing is written at the moment: what safetensors
            left half written goes, too.
    """
    for tmp in folder.glob(".*"):
        found = _ASIDE.fullmatch(tmp.name)
        ours = found and found[3] == "tmp" and found[1] in names and not is_running(int(found[2]))
        if ours or (alone and _SAFETENSORS.fullmatch(tmp.name)):
            tmp.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Undo below ``folder`` what killed processes left in the middle of `atomic_path` and
    `atomic_folder`: what is half written goes, and what was moved aside comes back, unless the new
    one stands. For whoever alone writes there, and writes nothing at the moment."""
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if name in files and _SAFETENSORS.fullmatch(name):
                Path(where, name).unlink(missing_ok=True)
            found = _ASIDE.fullmatch(name)
            if not found or (int(found[2]) != os.getpid() and is_running(int(found[2]))):
                continue
            aside, place = Path(where, name), Path(where, found[1])
            if name in folders:
                folders.remove(name)
            if found[3] == "old" and not place.exists():
                aside.replace(place)
            elif aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink(missing_ok=True)


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


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def full_disk(error: BaseException) -> int | None:
    """Which of `FULL` an error tells of, whatever its class (safetensors and LMDB have their own);
    None where it is something else."""
    text = str(error)
    told = re.search(r"os error (\d+)", text)
    number = getattr(error, "errno", None) or (int(told[1]) if told else None)
    if number in FULL:
        return number
    return next((n for n in sorted(FULL) if os.strerror(n) in text), None)


@contextlib.contextmanager
def _full_disk_has_an_errno(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        number = full_disk(error)
        if number is None or isinstance(error, UserError):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


_REMEDIES = {
    errno.ENOTDIR: "a file is in the place of a folder; give another path",
    errno.EEXIST: "a file is in the place of a folder; give another path",
    errno.EISDIR: "a folder is in the place of a file; give the path of a file",
    errno.ENOTEMPTY: "it is a folder and not empty; give another path",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.EACCES: "this user may not read or write it; change its permissions or give another path",
    errno.EPERM: "this user may not do that; change its permissions or give another path",
    errno.EROFS: "the file system is read-only; give another path",
    errno.ENAMETOOLONG: "its name is too long for the file system; give a shorter one",
    errno.ENOSPC: "the disk is full; free some and give the same command again, or another path",
    errno.EDQUOT: "the disk quota is used up; free some and give the same command again, or "
    "another path",
    errno.EFBIG: "files may not become that large here; raise the limit (ulimit -f) or give a "
    "path on another disk",
}


def told(error: OSError) -> str | None:
    """What the file system says against a path of the user's, and what would be right, as a
    sentence. None for errors that name no path (but for full disks), or that no other path would
    mend."""
    names = [name for name in (error.filename2, error.filename) if isinstance(name, str | Path)]
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None or not (names or error.errno in FULL):
        return None
    return f"{names[0]}: {remedy}" if names else remedy


@contextlib.contextmanager
def full_disk_is_told(folder: Path, remedy: str) -> Iterator[None]:
    """Turn the many errors of a full disk (also those of safetensors and LMDB, which are not
    OSError) into a UserError that ends with ``remedy``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise
        number, free = full_disk(error), shutil.disk_usage(folder).free
        if number is None and os.strerror(errno.EIO) in str(error):
            # LMDB says this when only a part of what it wrote fitted
            limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
            number = errno.EFBIG if limited else errno.ENOSPC if free < 1 << 20 else None
        if number is None:
            raise
        what = f"the disk of {folder} is full ({free / 1e6:,.1f} MB free)"
        if number == errno.EFBIG:
            what = f"files in {folder} may not become that large (see ulimit -f; else the disk)"
        raise UserError(f"{what}: {remedy}") from error
