"""Python as from the shell, but for the price of a fork: torch and the like are imported already.

    done = python("-c", "import latentsmith …", cwd=tmp_path, env={**os.environ, "X": "1"})
    assert done.returncode == 0, done.stderr

latentsmith is imported by the process itself. What is about importing torch itself, or about how a
process ends, takes a real one.
"""

import atexit
import functools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers.nursery import Child, Nursery


class Started:
    """A process under way."""

    def __init__(self, words: Sequence[str], cwd: Path | str, env: dict[str, str] | None = None):
        self.words, self.folder = list(words), tempfile.TemporaryDirectory()
        self.said = [Path(self.folder.name, name) for name in ("out", "err")]
        given = [self.words, str(Path(cwd).resolve()), dict(os.environ if env is None else env)]
        self.child: Child = _server().start(
            "helpers.third_party:python", *given, [str(file) for file in self.said]
        )

    def wait(self) -> subprocess.CompletedProcess[str]:
        """How it ended."""
        code = self.child.wait()
        out, err = (file.read_text() for file in self.said)
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.words, code, out, err)


def python(
    *words: str, cwd: Path | str = ".", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -c CODE …`` or ``python -m MODULE …``, to its end."""
    return Started(words, cwd, env).wait()


@functools.cache
def _server() -> Nursery:
    folder = tempfile.TemporaryDirectory()
    nursery = Nursery("helpers.third_party", log=Path(folder.name, "log"))
    atexit.register(folder.cleanup)
    atexit.register(nursery.__exit__)  # comes first
    return nursery
