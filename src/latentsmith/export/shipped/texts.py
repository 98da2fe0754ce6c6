"""Token numbers of texts, and the scale of their latents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsmith.data.text.tokens.base import EOS, EOS_ID, MASK, PAD, PAD_ID, UNK, UNK_ID, content
from latentsmith.data.text.tokens.words import WordSplitter


class Texts:
    """Texts ↔ rows of token numbers.

    Args:
        kind: words, or wordpiece: then a transformers tokenizer splits.
        pieces: the vocabulary, without special tokens.
        length: tokens of a row.
        fills: rows end in EOS, else in padding.
    """

    def __init__(self, kind: str, pieces: list[str], length: int, fills: bool = True):
        self.kind, self.length, self.fill = kind, length, EOS_ID if fills else PAD_ID
        self.names = [PAD, EOS, UNK, *pieces, MASK]
        self.ids = {piece: n for n, piece in enumerate(self.names) if n > UNK_ID}

    def number(self, texts: Sequence[str], splitter: Any) -> Tensor:
        """Texts → int64 [N, L]. Raises ValueError for one that is too long."""
        ids = torch.full((len(texts), self.length), self.fill)
        for row, pieces in enumerate(self._split(list(texts), splitter)):
            if len(pieces) >= self.length:
                raise ValueError(
                    f"{texts[row]!r} has {len(pieces)} tokens: at most {self.length - 1}"
                )
            found = [self.ids.get(piece, UNK_ID) for piece in pieces]
            ids[row, : len(pieces) + 1] = torch.tensor([*found, EOS_ID])
        return ids

    def _split(self, texts: list[str], splitter: Any) -> list[list[str]]:
        if self.kind == "words":
            return WordSplitter().split(texts)
        if splitter is None:
            raise ValueError("these texts are word pieces: set .splitter to their tokenizer first")
        backend = splitter.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [one.tokens for one in backend.encode_batch(texts, add_special_tokens=False)]

    def said(self, ids: Tensor, splitter: Any) -> list[str]:
        """int64 [N, L] → texts, up to their ends."""
        counts = content(ids).sum(-1).tolist()
        rows = [[self.names[i] for i in r[:n]] for r, n in zip(ids.tolist(), counts, strict=True)]
        if self.kind == "words":
            return [WordSplitter().join(pieces) for pieces in rows]
        return [" ".join(pieces).replace(" ##", "") for pieces in rows]


class VectorScale(nn.Module):
    """Raw latents ↔ those that a network sees.

    Args:
        raw: width of raw latents. width: of normalized ones.
        basis: whether axes are turned, or some dropped.
        unit: whether raw latents have length 1.
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor | None

    def __init__(self, raw: int, width: int, basis: bool = False, unit: bool = False):
        super().__init__()
        self.unit = unit
        self.register_buffer("mean", torch.zeros(raw))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("basis", torch.zeros(raw, width) if basis else None)

    def normalized(self, x: Tensor) -> Tensor:
        """Raw [..., D] → [..., D']."""
        z = x.float() - self.mean
        return (z if self.basis is None else z @ self.basis) / self.deviation

    def raw(self, z: Tensor) -> Tensor:
        """[..., D'] → raw [..., D]."""
        x = z * self.deviation
        x = (x if self.basis is None else x @ self.basis.T) + self.mean
        return F.normalize(x, dim=-1) if self.unit else x
