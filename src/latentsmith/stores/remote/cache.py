"""Shards of remote stores on this machine's disk: the least recently used give way.

    <cache>/remote/<store>/shard-00000.safetensors     a file's time is when it was last used

Several processes share it: a file is written aside and renamed, two that fetch one shard at once
write the same bytes, and a file that is removed while mapped stays readable until it is let go.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from latentsmith.errors import UserError
from latentsmith.utils.cache import cache_root
from latentsmith.utils.files import atomic_path, full_disk_is_told

LIMIT_GB = 50.0
"""Of all remote stores together; ``$LATENTSMITH_REMOTE_GB`` is another."""

FULL_DISK = "free some, or give less to shards of remote stores: LATENTSMITH_REMOTE_GB=10"


def limit_bytes() -> int:
    """How much of the disk shards of remote stores may take. Raises UserError for no number."""
    given = os.environ.get("LATENTSMITH_REMOTE_GB", str(LIMIT_GB))
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not limit > 0:
        raise UserError(f"LATENTSMITH_REMOTE_GB is {given!r}: give gigabytes, as 50 or 0.5")
    return int(limit * 1e9)


class ShardCache:
    """The shards of one store, within the room that all share.

    Args:
        name: of the store, unique.
        limit: bytes for all stores of the machine; the user's when not given.
    """

    def __init__(self, name: str, limit: int | None = None):
        self.root = cache_root() / "remote"
        self.folder = self.root / name
        self.limit = limit

    def get(self, name: str, size: int, fetch: Callable[[Path], None]) -> Path:
        """The file on this disk, fetched if need be; others make room first.

        Raises:
            UserError: it came with another size than ``size``, the disk is full, and what
                ``fetch`` raises.
        """
        file = self.folder / name
        with contextlib.suppress(OSError):
            if file.stat().st_size == size:
                os.utime(file)
                return file
        self._make_room(size)
        with full_disk_is_told(self.root, FULL_DISK), atomic_path(file) as tmp:
            fetch(tmp)
            found = tmp.stat().st_size
            if found != size:
                raise UserError(
                    f"{name} came with {found:,} bytes instead of {size:,}: the store there is "
                    "damaged, or was changed while it was read"
                )
        return file

    def _make_room(self, size: int) -> None:
        limit = limit_bytes() if self.limit is None else self.limit
        found = []
        for file in self.root.glob("*/shard-*.safetensors"):
            with contextlib.suppress(OSError):  # another process was faster
                found.append((file.stat().st_mtime_ns, file.stat().st_size, file))
        room = limit - sum(bytes_ for _, bytes_, _ in found) - size
        for _, bytes_, file in sorted(found):
            if room >= 0:
                return
            file.unlink(missing_ok=True)
            room += bytes_
