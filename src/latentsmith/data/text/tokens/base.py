"""Texts as rows of token numbers of one length, and back.

A splitter cuts a text into pieces; a vocabulary of the pieces that the training texts use most
numbers them; the length policy fills each row up:

    eos_fill      a b c EOS EOS EOS   every position is real and predicted: no length is given away
    given_length  a b c EOS PAD PAD   the true length is told; results are *length-oracle*

A text of n pieces needs n + 1 positions: all have at least one EOS. Longer ones are left out of a
corpus rather than cut, since a latent describes its whole text.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.errors import UserError
from latentsmith.registry import Registry, read
from latentsmith.utils.digest import json_digest
from latentsmith.utils.files import write_json

TOKENS = Registry("tokens", "latentsmith.data.text.tokens")

LengthPolicy = Literal["eos_fill", "given_length"]

PAD, EOS, UNK, MASK = "[PAD]", "[EOS]", "[UNK]", "[MASK]"
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
"""Numbers of the special tokens, whatever the vocabulary; MASK is the last of all."""
SPECIALS = 3
"""Special tokens before the first piece."""
FILE_NAME = "tokenizer.json"


class Splitter(Protocol):
    """Cuts texts into pieces and joins them again, so that splitting what was joined gives the
    same pieces."""

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The pieces of each text."""
        ...

    def join(self, pieces: Sequence[str]) -> str:
        """A text of pieces."""
        ...

    def fingerprint(self) -> str:
        """Changes when `split` does."""
        ...


@schema
class TokensConfig:
    """Base of all token configs. Subclasses add ``kind: Literal[...]`` and `splitter`."""

    kind: str
    length: Annotated[int, Field(ge=4)] = 32
    """Positions L of a text. Texts of more than L - 1 pieces are left out: all end in EOS."""
    shortest: Annotated[int, Field(ge=1)] = 3
    """Texts of fewer pieces are left out."""
    vocabulary: Annotated[int, Field(ge=1)] = 8_192
    """Most pieces kept: those that training texts use most often. All others are [UNK]."""
    policy: LengthPolicy = "eos_fill"
    """``eos_fill``: EOS up to the last position, predicted like any other; ``given_length``: one
    EOS, then padding, and the model is told where: an oracle."""

    def __post_init__(self) -> None:
        if self.shortest >= self.length:
            raise ValueError(
                f"shortest={self.shortest} leaves no text of at most length-1={self.length - 1} "
                "pieces: raise length or lower shortest"
            )

    def splitter(self) -> Splitter:
        """Load what cuts texts. Raises UserError when it cannot be had."""
        raise TypeError(f"{type(self).__name__} has no splitter()")

    def fits(self, pieces: Sequence[str]) -> bool:
        """Whether a text of these pieces is kept."""
        return self.shortest <= len(pieces) < self.length

    def fit(self, split: Iterable[Sequence[str]], splitter: Splitter) -> "Tokenizer":
        """A tokenizer whose vocabulary is that of these texts, cut by ``splitter``. Equally
        frequent pieces come in alphabetical order, so that the order of texts does not matter."""
        counts = Counter(piece for pieces in split for piece in pieces)
        for special in (PAD, EOS, UNK, MASK):
            counts.pop(special, None)
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return Tokenizer(self, ranked[: self.vocabulary], splitter)


def content(ids: Tensor) -> Tensor:
    """bool [N, L]: the positions of ids [N, L] before the first EOS or PAD."""
    return ~((ids == EOS_ID) | (ids == PAD_ID)).cummax(-1).values


def said(ids: Tensor) -> Tensor:
    """bool [N, L]: content and the first EOS, what a text says; the fill after it says nothing."""
    end = ids == EOS_ID
    return content(ids) | (end & (end.cumsum(-1) == 1))


@dataclass(frozen=True)
class Tokens:
    """Token rows of N texts.

    Attributes:
        ids: int64 [N, L].
        length: int64 [N], pieces of each text (EOS not counted): the *content*.
    """

    ids: Tensor
    length: Tensor


class Tokenizer:
    """Numbers texts and reads numbers back.

    Args:
        config: length and policy.
        pieces: the vocabulary, most frequent first; specials are not among them.
        splitter: cuts and joins.

    Attributes:
        size: token numbers V, specials included; every id is below it.
        pad_id, eos_id, unk_id, mask_id: numbers of the specials; MASK is V - 1.
        length: positions L.
    """

    pad_id, eos_id, unk_id = PAD_ID, EOS_ID, UNK_ID

    def __init__(self, config: TokensConfig, pieces: Sequence[str], splitter: Splitter):
        self.config, self.splitter = config, splitter
        self.names = [PAD, EOS, UNK, *pieces, MASK]
        self.size, self.mask_id, self.length = len(self.names), len(self.names) - 1, config.length
        self._ids = {piece: SPECIALS + i for i, piece in enumerate(pieces)}

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Texts → `Tokens`. Raises as `number`."""
        return self.number(self.splitter.split(texts))

    def number(self, split: Sequence[Sequence[str]]) -> Tokens:
        """Texts that are cut already → `Tokens`.

        Raises:
            UserError: a text with more than L - 1 pieces.
        """
        fill = EOS_ID if self.config.policy == "eos_fill" else PAD_ID
        ids = np.full((len(split), self.length), fill, dtype=np.int64)
        for row, pieces in enumerate(split):
            if len(pieces) >= self.length:
                shown = self.splitter.join(pieces[: self.length])
                raise UserError(
                    f"text {row} has {len(pieces)} pieces and one EOS, more than the "
                    f"{self.length} positions of tokens.length: '{shown[:100]} …'"
                )
            ids[row, : len(pieces)] = [self._ids.get(piece, UNK_ID) for piece in pieces]
            ids[row, len(pieces)] = EOS_ID
        lengths = torch.tensor([len(pieces) for pieces in split], dtype=torch.int64)
        return Tokens(torch.from_numpy(ids), lengths)

    def present(self, ids: Tensor) -> Tensor:
        """bool [N, L]: the positions a model works on: all (``eos_fill``), or those up to the EOS
        (``given_length``)."""
        return torch.ones_like(ids, dtype=torch.bool) if self.policy_fills else ids != PAD_ID

    @property
    def policy_fills(self) -> bool:
        """Whether every position is real."""
        return self.config.policy == "eos_fill"

    def decode(self, ids: Tensor) -> list[str]:
        """Ids [N, L] → texts, each up to its first EOS or PAD. Tokens that stand for no piece are
        shown by name ("[UNK]", "[MASK]")."""
        counts = content(ids).sum(-1).tolist()
        rows = zip(ids.tolist(), counts, strict=True)
        return [self.splitter.join([self.names[i] for i in row[:n]]) for row, n in rows]

    def unknown_share(self, tokens: Tokens) -> float:
        """Share of content positions that are [UNK]."""
        return int((tokens.ids == UNK_ID).sum()) / max(int(tokens.length.sum()), 1)

    def fingerprint(self) -> dict[str, Any]:
        """What numbers depend on. JSON-able."""
        return {
            "kind": self.config.kind,
            "length": self.length,
            "policy": self.config.policy,
            "splitter": self.splitter.fingerprint(),
            "pieces": json_digest(self.names),
        }

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``: settings and vocabulary."""
        settings = {name: getattr(self.config, name) for name in self.config.__dataclass_fields__}
        pieces = self.names[SPECIALS:-1]
        value = {"settings": settings, "splitter": self.splitter.fingerprint(), "pieces": pieces}
        write_json(Path(folder) / FILE_NAME, value)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read what `save` wrote.

        Raises:
            UserError: missing or damaged, or the splitter cannot be had or is another now.
        """
        import json

        path = Path(folder) / FILE_NAME
        try:
            value = json.loads(path.read_text())
            settings, pieces, known = value["settings"], list(value["pieces"]), value["splitter"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the tokenizer {path} is missing or damaged ({error})") from error
        config = read(TOKENS, settings)
        splitter = config.splitter()
        if splitter.fingerprint() != known:
            raise UserError(
                f"{path} was made with another {config.kind} splitter (digest {known[:12]}, here "
                f"{splitter.fingerprint()[:12]}): its numbers would mean other words"
            )
        return cls(config, pieces, splitter)
