"""Where fetched data and derived vectors are kept between runs, and which runs rely on what."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentsmith.utils.files import atomic_path

USERS = ".users"
"""Below the cache: which runs rely on an entry, a file for each pair."""

_run: Path | None = None


def cache_root() -> Path:
    """``$LATENTSMITH_CACHE``, else ``~/.cache/latentsmith``. All in it can be made again."""
    given = os.environ.get("LATENTSMITH_CACHE")
    return Path(given).expanduser() if given else Path("~/.cache/latentsmith").expanduser()


@contextmanager
def used_by(run: Path) -> Iterator[None]:
    """What `note_use` is told meanwhile counts as relied upon by the run in this folder."""
    global _run
    before, _run = _run, run.resolve()
    try:
        yield
    finally:
        _run = before


def note_use(entry: Path) -> None:
    """Leave word that the run going on relies on ``entry``, so that ``latentsmith clean`` keeps it
    as long as that run exists. Nothing happens outside runs, or for what lies outside the cache."""
    root, entry = cache_root().resolve(), Path(entry).resolve()
    if _run is None or not entry.is_relative_to(root):
        return
    name = hashlib.blake2b(str(_run).encode(), digest_size=8).hexdigest()
    try:
        with atomic_path(_users(root, entry) / name) as file:
            file.write_text(f"{_run}\n")
    except OSError:  # a cache that cannot be written is not cleaned from here either
        return


def users_of(entry: Path) -> list[Path]:
    """Folders of the runs that relied on an entry of the cache, or on something in it, and are
    still there."""
    folder = _users(cache_root().resolve(), Path(entry).resolve())
    files = [f for f in folder.rglob("*") if f.is_file() and not f.name.startswith(".")]
    runs = {Path(file.read_text().rstrip("\n")) for file in files}
    return sorted(run for run in runs if (run / "config.yaml").is_file())


def forget(entry: Path) -> None:
    """Remove the word on an entry that is gone."""
    folder = _users(cache_root().resolve(), Path(entry).resolve())
    shutil.rmtree(folder, ignore_errors=True)


def _users(root: Path, entry: Path) -> Path:
    return root / USERS / entry.relative_to(root)
