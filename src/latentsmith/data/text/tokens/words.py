"""``words``: words and punctuation marks, for small closed languages such as captions."""

import re
from collections.abc import Sequence
from typing import Literal

from latentsmith.config.schema import schema
from latentsmith.data.text.tokens.base import TOKENS, TokensConfig

_PIECE = re.compile(r"\[[A-Z]+\]|[\w'-]+|[^\w\s]")
_TIGHT = re.compile(r" ([,.;:!?])")


class WordSplitter:
    """Runs of letters, digits, hyphens and apostrophes, and single marks."""

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """See `Splitter.split`."""
        return [_PIECE.findall(text) for text in texts]

    def join(self, pieces: Sequence[str]) -> str:
        """Blanks between words, none before a comma or another closing mark."""
        return _TIGHT.sub(r"\1", " ".join(pieces))

    def fingerprint(self) -> str:
        """Of the rule."""
        return f"words {_PIECE.pattern}"


@TOKENS.register("words", help="words and punctuation marks: for small closed languages")
@schema
class WordsConfig(TokensConfig):
    """Whole words. Anything outside the vocabulary is [UNK]."""

    kind: Literal["words"] = "words"

    def splitter(self) -> WordSplitter:
        """Nothing to load."""
        return WordSplitter()
