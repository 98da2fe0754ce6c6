"""What every corpus of texts promises."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.registry import Registry

CORPORA = Registry("corpus", "latentsmith.data.text")


@dataclass(frozen=True)
class Corpus:
    """Texts, each once, in the source's order.

    Attributes:
        name: short, for protocol stamps ("wordnet").
        texts: different, not empty.
        origin: where the bytes came from, for the log.
        licence: what one may do with them, in a line; "" where it is the user's own matter.
        lines: texts the source had, duplicates and empty ones included.
    """

    name: str
    texts: list[str]
    origin: str
    licence: str = ""
    lines: int = 0


@schema
class CorpusConfig:
    """Base of all corpus configs. Subclasses add ``kind: Literal[...]`` and `read`."""

    kind: str
    train_count: Annotated[int, Field(ge=1)] | None = None
    """Training texts. None: all that are not held out."""
    val_count: Annotated[int, Field(ge=1)] = 2_000
    """Held-out texts that choices are made on (ridge strength, when to stop)."""
    test_count: Annotated[int, Field(ge=1)] = 2_000
    """Held-out texts that are measured, and nothing else."""
    seed: int = 0
    """Seeds which texts are held out. The split follows from seed and text alone, so that equal
    texts are never on both sides."""

    def read(self, cache: Path) -> Corpus:
        """All texts (fetching them if need be). ``cache`` is where fetched files may be kept.
        Raises UserError when they cannot be had, naming every way to get them."""
        raise TypeError(f"{type(self).__name__} has no read()")


def distinct(lines: list[str], *, lower: bool) -> list[str]:
    """``lines`` with runs of white space made one space, in lower case where ``lower``; each once,
    in order of first appearance, without empty ones."""
    cleaned = (" ".join((line.lower() if lower else line).split()) for line in lines)
    return list(dict.fromkeys(text for text in cleaned if text))
