"""Content digests of data on disk, computed once and remembered."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from latentsmith.utils.files import atomic_path, write_json

log = logging.getLogger(__name__)


def file_digest(path: Path) -> str:
    """xxh3-128 of a file's bytes."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def join_digests(parts: Iterable[str]) -> str:
    """One digest of many texts; their order and borders count."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return state.hexdigest()


def remembered(cache: Path, signature: str, compute: Callable[[], str]) -> str:
    """``compute()``, kept in ``cache / "digests"`` under ``signature``.

    Args:
        signature: everything that changes when the data may have changed, cheap to take (names,
            sizes, modification times).
    """
    key = hashlib.blake2b(signature.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    path = cache / "digests" / f"{key}.json"
    try:
        return str(json.loads(path.read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        digest = compute()  # never computed, or the note is damaged
        write_json(path, {"digest": digest})
        return digest


def files_digest(root: Path, files: list[Path], cache: Path) -> str:
    """Digest of names (relative to ``root`` where they are below it), sizes and contents of
    ``files``.

    Every byte is read the first time; later only names, sizes and modification times are looked
    at. A file that vanished counts as its name only. Files that have changed since the last
    reading are named in the log.
    """
    names = [
        (path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in files
    ]
    stats = [_stat(path) for path in files]

    def compute() -> str:
        if len(files) > 100_000:
            log.info("hashing %d files of %s once", len(files), root)
        with ThreadPoolExecutor(4) as pool:
            contents = list(pool.map(_digest_or_missing, files))
            _tell_changed(root, names, contents, cache)
            lines = [
                f"{name}\t{size}\t{content}"
                for name, (size, _), content in zip(names, stats, contents, strict=True)
            ]
        return join_digests(lines)

    signature = join_digests(
        [str(root.resolve()), *(f"{n}\t{s}\t{t}" for n, (s, t) in zip(names, stats, strict=True))]
    )
    return remembered(cache, signature, compute)


def _tell_changed(root: Path, names: list[str], contents: list[str], cache: Path) -> None:
    """Compare with what these files held when they were read last; keep that for the next time."""
    kept = cache / "digests" / f"{join_digests([str(root.resolve()), *names])}.files"
    now = [content[:16] for content in contents]
    before = kept.read_text().split() if kept.is_file() else []
    if now == before:
        return
    if len(before) == len(now):
        changed = [n for n, old, new in zip(names, before, now, strict=True) if old != new]
        shown = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        log.warning(
            "%d of %d files of %s have changed since they were last read: %s",
            len(changed), len(names), root, shown,
        )  # fmt: skip
    with atomic_path(kept) as tmp:
        tmp.write_text("\n".join(now))


def _stat(path: Path) -> tuple[int, int]:
    """Size and modification time in ns; (-1, -1) when the file is gone."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _digest_or_missing(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return "unreadable"
