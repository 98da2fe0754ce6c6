"""Files out of a Debian package, downloaded and unpacked without root."""

import shutil
import subprocess
from pathlib import Path

from latentsmith.data.found import Unavailable


class DebianError(Unavailable):
    """A package that cannot be had. The text says which command failed and why."""


def unpacked(package: str, work: Path) -> tuple[str, Path]:
    """Download ``package`` by apt and unpack it below ``work``.

    Args:
        work: an empty folder.

    Returns:
        (the .deb's file name, the folder that stands for ``/``).

    Raises:
        DebianError: no apt-get or dpkg-deb here, or one of them failed.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DebianError(f"this system has no {tool}")
    _download(package, work)
    deb = next(work.glob("*.deb"), None)
    if deb is None:
        raise DebianError(f"apt-get download {package} left no .deb file")
    _command(["dpkg-deb", "-x", str(deb), str(work / "x")], work)
    return deb.name, work / "x"


def _download(package: str, work: Path) -> None:
    """Fetch the .deb into ``work``, with package lists of our own where the system has none."""
    try:
        _command(["apt-get", "download", package], work)
    except DebianError:
        # A fresh machine has no package lists, and refreshing the system's needs root.
        for folder in ("lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True)
        own = ["-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
        _command(["apt-get", *own, "update"], work)
        _command(["apt-get", *own, "download", package], work)


def _command(command: list[str], folder: Path) -> None:
    """Run it in ``folder``; DebianError with the first line of its errors when it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DebianError(f"{command[0]} failed: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        why = lines[0] if lines else f"exit code {done.returncode}"
        raise DebianError(f"{' '.join(command[:1] + command[-2:])} failed: {why}")
