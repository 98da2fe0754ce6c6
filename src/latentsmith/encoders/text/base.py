"""What every frozen text encoder promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import xxhash
from torch import Tensor, nn

from latentsmith.config.schema import schema
from latentsmith.encoders.hub import get_it
from latentsmith.errors import UserError
from latentsmith.registry import Registry
from latentsmith.utils.digest import json_digest, state_digest

TEXT_ENCODERS = Registry("text_encoder", "latentsmith.encoders.text")

TextKind = Literal["embedding", "sequence"]

PROBES = ["", "A photo of a Dog.", "naïve  Größe, 3.14%", "can't  stop", "日本 🙂", "a " * 600]
"""Texts whose token ids tell one tokenizer from another."""


@dataclass
class TextOutput:
    """What an encoder made of a batch of texts.

    ``embedding`` float32 [B, D]: one vector a text; ``sequence`` float32 [B, L, E]: one a token;
    ``mask`` bool [B, L]: which positions hold a token of the text (begin and end tokens included);
    ``cut`` bool [B]: which texts were longer than L tokens and lost their end.
    """

    embedding: Tensor
    sequence: Tensor
    mask: Tensor
    cut: Tensor


@schema
class TextEncoderConfig:
    """Base of all text encoder configs. Subclasses add ``kind: Literal[...]`` and `build`."""

    kind: str

    def build(self) -> "TextEncoder":
        """Load the frozen encoder. Raises UserError when its weights are not at hand."""
        raise TypeError(f"{type(self).__name__} has no build()")


class TextEncoder(nn.Module):
    """A frozen network from texts to vectors.

    Attributes:
        name: registry kind.
        dim: width D of ``embedding``.
        width: width E of ``sequence``.
        length: tokens L of ``sequence``; longer texts are cut.
        output: what a store of this encoder holds.
        pools: whether networks are told ``embedding`` beside ``sequence`` (SDXL): stores of the
            latter then hold it too, as field ``pooled``.
    """

    name: str
    dim: int
    width: int
    length: int
    output: TextKind = "embedding"
    pools: bool = False

    def __init__(self, model: Any, tokenizer: Any, length: int, output: TextKind):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.length = length
        self.output: TextKind = output
        check_vocabulary(model, tokenizer, self.name)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Does nothing, as an image encoder's: it stays frozen in evaluation mode."""
        return self

    def tokens(
        self, texts: Sequence[str], *, full: bool, tokenizer: Any = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Token ids on the model's device, and which texts were cut.

        Args:
            texts: at least one.
            full: pad to `length` and not just to the longest of the batch.
            tokenizer: another than the encoder's own.

        Returns:
            (``input_ids`` and ``attention_mask`` int64 [B, l], bool [B]).
        """
        if isinstance(texts, str) or not len(texts):
            raise UserError("a text encoder takes a list of at least one text")
        batch = (tokenizer or self.tokenizer)(
            list(texts),
            truncation=True,
            max_length=self.length,
            padding="max_length" if full else True,
            return_tensors="pt",
        )
        cut = torch.tensor([bool(encoding.overflowing) for encoding in batch.encodings])
        device = next(self.model.parameters()).device
        ids = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        return ids, cut

    def forward(self, texts: Sequence[str]) -> TextOutput:
        """Texts → outputs, float32, no gradient."""
        raise TypeError(f"{type(self).__name__} has no forward()")

    def pad(self, sequence: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, l, E] and [B, l] → [B, L, E], bool [B, L]: zeros where there is no token, so that
        values do not depend on the longest text of the batch."""
        mask = mask.bool()
        missing = self.length - mask.shape[1]
        sequence = sequence.float() * mask[..., None]
        sequence = nn.functional.pad(sequence, (0, 0, 0, missing))
        return sequence, nn.functional.pad(mask, (0, missing))

    def digest(self) -> str:
        """Hex digest of the weights."""
        return state_digest(self.model.state_dict())

    def fingerprint(self) -> dict[str, object]:
        """What a cache made with this encoder depends on: kind, weights, tokenizer, length and
        output. JSON-able."""
        return {
            "kind": self.name,
            "weights": self.digest(),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "length": self.length,
            "output": self.output,
        }


def mean_pool(sequence: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each text: [B, l, E], [B, l] → float32 [B, E]."""
    weights = mask.float()[..., None]
    return (sequence.float() * weights).sum(1) / weights.sum(1).clamp_min(1e-9)


def tokenizer_digest(tokenizer: Any) -> str:
    """Of the vocabulary and of what becomes of a few texts: what a tokenizer does, not how its
    library happens to write it down."""
    state = xxhash.xxh3_128()
    for word, number in sorted(tokenizer.get_vocab().items()):
        state.update(f"{word}\0{number}\0".encode("utf-8", "surrogatepass"))
    ids = [tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in PROBES]
    return json_digest([state.hexdigest(), ids])


def load_tokenizer(source: str, *, example: str, subfolder: str = "") -> Any:
    """The tokenizer of the source, or of its ``subfolder``, in its fast form.

    Raises:
        UserError: it cannot be had.
    """
    from transformers import AutoTokenizer

    where = f"{source}/{subfolder}" if subfolder else source
    named = "" if subfolder else ", or name them by the setting tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, subfolder=subfolder, trust_remote_code=False
        )
    except Exception as error:  # each tokenizer's own kind, for a missing or damaged file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot load the tokenizer {where!r}: {first}. {get_it(example)}, with its "
            f"tokenizer files{named}"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {where!r} has no fast version (tokenizer.json)")
    known = set(tokenizer("a photo of the cat", add_special_tokens=False)["input_ids"])
    if not known - {tokenizer.unk_token_id}:  # transformers makes up an empty one without a word
        raise UserError(
            f"the tokenizer {where!r} knows no words: its vocabulary files are missing there. "
            f"{get_it(example)} that has them{named}"
        )
    return tokenizer


def check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    """Raises UserError when the tokenizer has tokens that the model does not know."""
    most = max(tokenizer.get_vocab().values())
    if most >= model.config.vocab_size:
        raise UserError(
            f"the tokenizer has token {most}, the model {name} knows only "
            f"{model.config.vocab_size}: they do not belong together"
        )


def check_length(length: int, most: int, source: str) -> None:
    """Raises UserError when ``length`` tokens are more than the model has positions for."""
    if length > most:
        raise UserError(
            f"{source!r} reads {most} tokens at most, length={length} asks for more: set "
            f"length={most} or less"
        )
