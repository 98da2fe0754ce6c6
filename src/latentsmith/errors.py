"""The one exception class for mistakes a user can mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, a missing file or weight, a setting that cannot work.

    The message names what is wrong, where, and what would be right. The command line prints it
    without a traceback and exits with code 2 (``--debug`` shows the traceback).
    """


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """A sentence that helps with a mistyped name: the nearest known names, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    return f"Known: {', '.join(known)}."
