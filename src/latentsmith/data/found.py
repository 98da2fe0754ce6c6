"""Data that several sources may have: the first that answers is used, and named."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from latentsmith.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Unavailable(Exception):
    """What a source does not have. The text says what is missing or wrong, and where."""


def first_found(
    what: str, sources: Sequence[tuple[str, Callable[[], T]]], *, setting: str, advice: str
) -> T:
    """What the first source gives that does not raise `Unavailable`.

    Args:
        what: is looked for, for messages.
        sources: (name, what fetches and checks), the dearest last.
        setting: with which a user gives a copy of their own, an example.
        advice: how to come by it, where no source has it.

    Raises:
        UserError: none has it; names each and why.
    """
    failures = [f"a given folder: none was given ({setting})"]
    for name, fetch in sources:
        try:
            return fetch()
        except Unavailable as error:
            log.debug("%s, %s: %s", what, name, error)
            failures.append(f"{name}: {error}")
    lines = "\n  - ".join(failures)
    raise UserError(f"{what} cannot be had from any of its sources:\n  - {lines}\n{advice}")
