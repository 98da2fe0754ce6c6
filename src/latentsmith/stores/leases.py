"""Who makes which shard, of ranks that share a disk and nothing else.

    shard-00007.taken    signed by whoever makes this shard; its time is moved while it does

Rank r of W begins with shards r, r + W, … and, when these are done, takes what others have not
begun, or left behind: a lease is void once the process that signed it is no more, which only its
own machine can tell, or when nobody has renewed it for `EXPIRED` seconds. Should two make one shard
after all (a process that was only asleep), both write the same values, each aside and by a rename.
"""

import contextlib
import os
import time
from pathlib import Path

from latentsmith.utils.lock import names_the_dead, signature

EXPIRED = 600.0
"""Seconds without a sign of life after which a shard is anybody's. A batch must not take longer."""

RENEW = 30.0
"""A lease is renewed at most so often: on a shared disk that is a message to a server."""


class Leases:
    """The shards that this process makes.

    Args:
        path: the store's folder.
        alone: nobody else writes: no files are needed.
    """

    def __init__(self, path: Path, *, alone: bool):
        self.path, self.alone = path, alone
        self._held: dict[int, float] = {}

    def _file(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.taken"

    def take(self, shard: int) -> bool:
        """Whether this process now makes it; False while another does."""
        if self.alone:
            return True
        file = self._file(shard)
        if self._expired(file):
            file.unlink(missing_ok=True)
        try:
            with file.open("x") as lease:
                lease.write(signature())
        except FileExistsError:
            return False
        self._held[shard] = time.monotonic()
        return True

    def _expired(self, file: Path) -> bool:
        """By the disk's own clock, which all who share it see: machines may differ by minutes. Far
        ahead of it is as old as far behind: it was set back, and nobody has renewed since."""
        probe = file.with_name(f".{file.name}.{os.getpid()}.now.tmp")
        try:
            stamp = file.stat().st_mtime
            if names_the_dead(file.read_text()):
                return True
            probe.touch()
            return abs(probe.stat().st_mtime - stamp) > EXPIRED
        except FileNotFoundError:
            return False
        finally:
            probe.unlink(missing_ok=True)

    def renew(self) -> None:
        """A sign of life, between batches."""
        now = time.monotonic()
        for shard, since in list(self._held.items()):
            if now - since > RENEW:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._file(shard))
                self._held[shard] = now

    def release(self, shard: int) -> None:
        """It is made, or given up."""
        if self._held.pop(shard, None) is not None:
            self._file(shard).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up what is held: others need not wait until it expires."""
        for shard in list(self._held):
            self.release(shard)

    def clear(self) -> None:
        """Remove what dead processes left in a finished store."""
        for file in self.path.glob("shard-*.taken"):
            file.unlink(missing_ok=True)
