"""One thing in an export: where it lies, what it is, how it is loaded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A file or folder of an export, for its model card.

    Attributes:
        path: below the export, folders with a slash at the end.
        what: one phrase.
        code: Python that loads it, run in the export's folder. Empty: nothing to load by itself.
        note: what a reader of the code must know, before it.
    """

    path: str
    what: str
    code: str = ""
    note: str = ""
