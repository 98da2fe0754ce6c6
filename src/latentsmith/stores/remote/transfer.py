"""Copying a finished store between folders and URLs."""

import contextlib
import os
import tempfile
from pathlib import Path

from latentsmith.errors import UserError
from latentsmith.stores.layout import MANIFEST
from latentsmith.stores.remote.place import Place, is_url
from latentsmith.utils.counter import Counter
from latentsmith.utils.files import atomic_path, full_disk_is_told


def transfer(source: str, target: str) -> int:
    """Copy a finished store of shards; the same call goes on where it was stopped.

    Shards first, the manifest last: what is there without one is no finished store. Files that are
    there with the same size are left.

    Args:
        source, target: a folder or a URL each.

    Returns:
        Files that were copied.

    Raises:
        UserError: no finished store of shards at ``source``, another store at ``target``, a full
            disk, or a place that cannot be reached.
    """
    here, there = _place(source), _place(target)
    sizes = here.sizes()
    if MANIFEST not in sizes:
        raise UserError(
            f"no finished store of shards at {source}: it has no {MANIFEST}. (A store in LMDB: "
            "`latentsmith cache convert STORE OUT --to shards` first)"
        )
    known = there.sizes()
    if MANIFEST in known and _read(here) != _read(there):
        raise UserError(f"{target} holds another store: choose another place, or remove it")
    names = [n for n in sorted(sizes, key=_last) if known.get(n) != sizes[n] and n[0] != "."]
    with Counter(f"copying to {target}", len(names)) as count:
        for done, name in enumerate(names, start=1):
            _copy(here, there, name, target)
            count(done)
    return len(names)


def _last(name: str) -> tuple[bool, str]:
    return name == MANIFEST, name


def _place(where: str) -> Place:
    return Place(where if is_url(where) else Path(where).absolute().as_uri())


def _read(place: Place) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        place.fetch(MANIFEST, Path(folder) / MANIFEST)
        return (Path(folder) / MANIFEST).read_bytes()


def _copy(here: Place, there: Place, name: str, target: str) -> None:
    """One file; onto this machine's disk never by halves."""
    if not is_url(target):
        folder = Path(target)
        folder.mkdir(parents=True, exist_ok=True)
        with (
            full_disk_is_told(folder, "free some and copy again"),
            atomic_path(folder / name) as tmp,
        ):
            here.fetch(name, tmp)
        return
    if here.url.startswith("file://"):
        there.put(Path(here.url.removeprefix("file://")) / name, name)
        return
    handle, aside = tempfile.mkstemp()
    os.close(handle)
    try:
        here.fetch(name, Path(aside))
        there.put(Path(aside), name)
    finally:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
