"""Mistakes on the command line: what each must say, and that nothing is left of it.

MISTAKES = [Mistake("a folder that is not there", "data inspect image_folder folder=gone",
                    r"image folder gone does not exist")]

@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_paths(mistake, place, capsys):
    check(mistake, capsys)
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from latentsmith.cli import main


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        name: it, in words.
        line: what is typed after ``latentsmith``.
        says: regular expression that the message must hold.
        leaves: names that may be new or other afterwards, for the message speaks of them.
    """

    name: str
    line: str
    says: str
    leaves: str = r"(?!)"

    def __str__(self) -> str:
        return self.name


def check(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> None:
    """Make it, in the working folder."""
    before = everything()
    message = refused(shlex.split(mistake.line), capsys)
    assert re.search(mistake.says, message), message
    new = {name for name, content in everything().items() if before.get(name) != content}
    gone = before.keys() - everything().keys()
    left = {name for name in new | gone if not re.match(mistake.leaves, name)}
    assert not left, left


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``latentsmith WORDS``, which must end with code 2 and one message; gives that."""
    capsys.readouterr()
    code = main(list(words))
    told = capsys.readouterr().err
    assert code == 2 and "Traceback" not in told, told
    _log, *messages = re.split(r"^latentsmith: ", told, flags=re.MULTILINE)
    assert len(messages) == 1, told
    return messages[0].strip()


def everything() -> dict[str, bytes | None]:
    """Every file below the working folder with its bytes, every folder."""
    return {
        path.as_posix(): path.read_bytes() if path.is_file() else None
        for path in Path().rglob("*")
        if not path.is_symlink()
    }
