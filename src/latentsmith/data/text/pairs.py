"""Batches of texts with latents, and which rows count as paired.

Semi-supervised training is an experiment on paired data: a seeded part keeps both sides, the others
lose one. What is lost never reaches a batch: its tokens are PAD, its latent is zero, and its flag
says so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.order import mixed_order, order, rank_slice
from latentsmith.data.text.normalizer import VectorNormalizer
from latentsmith.data.text.split import TextSplit
from latentsmith.data.text.store import TextLatents
from latentsmith.data.text.tokens import Tokenizer
from latentsmith.errors import UserError
from latentsmith.training.task import Batch
from latentsmith.utils.digest import json_digest, state_digest
from latentsmith.utils.seeding import generator

IN_MEMORY = 1 << 30
"""Normalized latents of at most so many bytes are kept; larger ones are read for each batch."""


@schema
class PairingConfig:
    """Which training rows keep both their text and their latent."""

    paired: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of rows that keep both, drawn by ``seed``."""
    rest: Literal["text", "latent", "both"] = "both"
    """What the others keep: their text only, their latent only, or half of them each."""
    drop: bool = False
    """Leave the others out altogether: the control that shows what unpaired rows are good for."""
    looks: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of training samples that are pairs, where others are there too: few pairs are shown
    again and again. null: each row as often as any other."""
    seed: int = 0
    """Seeds which rows. A larger share keeps the rows of a smaller one."""

    def __post_init__(self) -> None:
        if self.looks is not None and self.drop:
            raise ValueError(
                f"pairing.looks={self.looks:g} mixes pairs with rows of one side, which "
                "pairing.drop=true leaves out: set one of them only"
            )

    def masks(self, n: int) -> tuple[Tensor, Tensor]:
        """(keeps its text, keeps its latent), bool [n] each; a row with neither is left out."""
        place = torch.empty(n, dtype=torch.int64)
        place[torch.randperm(n, generator=generator("paired", self.seed, n))] = torch.arange(n)
        paired = place < round(self.paired * n)
        if self.drop:
            return paired, paired.clone()
        even = place % 2 == 0
        text = {"text": True, "latent": False, "both": even}[self.rest]
        latent = {"text": False, "latent": True, "both": ~even}[self.rest]
        return paired | torch.as_tensor(text), paired | torch.as_tensor(latent)


@dataclass(frozen=True)
class PairData:
    """Rows of a corpus as a model sees them.

    Attributes:
        tokens: int64 [N, L].
        length: int64 [N], content pieces.
        cached: latents float32 [N, K0, D'] normalized, or None where each batch reads its own.
        has_text, has_latent: bool [N]. Where False, tokens are PAD and the latent is zero.
        rows: int64 [N], their rows in the corpus.
        data, tokenizer, normalizer: what they were made by.
    """

    tokens: Tensor
    length: Tensor
    cached: Tensor | None
    has_text: Tensor
    has_latent: Tensor
    rows: Tensor
    data: TextLatents
    tokenizer: Tokenizer
    normalizer: VectorNormalizer

    @classmethod
    def of(
        cls,
        data: TextLatents,
        split: TextSplit,
        tokenizer: Tokenizer,
        normalizer: VectorNormalizer,
        *,
        pairing: PairingConfig | None = None,
    ) -> "PairData":
        """A split of a corpus. Without ``pairing``: every row that has a text and a latent.

        Raises:
            UserError: no rows, latents whose scale the normalizer does not fit, or ``pairing`` on
                rows that are not all pairs themselves.
        """
        normalizer.belongs(encoder_digest(data))
        rows = data.rows(split) if pairing is None else _any(data, split)
        has_text, has_latent = data.has_text[rows], data.has_latent[rows]
        if pairing is not None:
            text, latent = pairing.masks(len(rows))
            has_text, has_latent = has_text & text, has_latent & latent
            keep = has_text | has_latent
            rows, has_text, has_latent = rows[keep], has_text[keep], has_latent[keep]
        if not len(rows):
            raise UserError(f"corpus {data.name} has no rows in its {split} split")
        numbered = data.tokens(tokenizer)
        ids = numbered.ids[rows].masked_fill(~has_text[:, None], tokenizer.pad_id)
        length = numbered.length[rows] * has_text
        made = cls(ids, length, None, has_text, has_latent, rows, data, tokenizer, normalizer)
        made._check_scale()
        k, d = data.shape[0], normalizer.dim
        if len(rows) * k * d * 4 > IN_MEMORY:
            return made
        return replace(made, cached=made.latents(torch.arange(len(rows))))

    def _check_scale(self) -> None:
        some = self.rows[self.has_latent][:4096]
        if len(some) >= 64:  # few rows say little
            self.normalizer.check(self.data.latents(some))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(K0, D') of a latent as a model sees it."""
        return self.data.shape[0], self.normalizer.dim

    def latents(self, index: Tensor) -> Tensor:
        """Positions int64 [B] → normalized latents float32 [B, K0, D'], zero where none is."""
        if self.cached is not None:
            return self.cached[index]
        out = torch.zeros(len(index), *self.shape)
        there = self.has_latent[index]
        if there.any():
            raw = self.data.latents(self.rows[index[there]])
            out[there] = self.normalizer.normalize(raw)
        return out

    def batch(self, index: Tensor) -> Batch:
        """Positions int64 [B] → ``"index"``, ``"tokens"`` int64 [B, L], ``"length"`` int64 [B],
        ``"latents"`` float32 [B, K0, D'], ``"has_text"`` and ``"has_latent"`` bool [B]."""
        return {
            "index": index,
            "tokens": self.tokens[index],
            "length": self.length[index],
            "latents": self.latents(index),
            "has_text": self.has_text[index],
            "has_latent": self.has_latent[index],
        }

    def texts(self, index: Tensor | None = None) -> list[str]:
        """The texts as they were written (not as tokens). Raises UserError for rows without."""
        return self.data.texts_of(self.rows if index is None else self.rows[index])

    @cached_property
    def digest(self) -> str:
        """Of all that batches depend on."""
        scale = {"mean": self.normalizer.mean, "scale": self.normalizer.scale}
        if self.normalizer.basis is not None:
            scale["basis"] = self.normalizer.basis
        flags = {"rows": self.rows, "text": self.has_text, "latent": self.has_latent}
        parts = [self.data.digest, self.tokenizer.fingerprint(), state_digest(scale | flags)]
        return json_digest(parts)


def _any(data: TextLatents, split: TextSplit) -> Tensor:
    """Rows that have a text or a latent."""
    return data.rows(split, text=False, latent=False)


def encoder_digest(data: TextLatents) -> str:
    """Of the encoder that made a corpus's latents."""
    return json_digest(data.store.manifest.encoder)


@dataclass(frozen=True)
class PairBatches:
    """`PairData` as the training loop's `latentsmith.training.batches.BatchSource`.

    Attributes:
        pairs: what is shown.
        batch_size: samples of a batch, over all ranks.
        seed: of the order.
        rank, world_size: which part of each batch this process gets.
        columns: further values of each row, name → [N, …]: a control's pseudo-latents.
        looks: share of samples that are pairs; None: as they come. See `PairingConfig`.
    """

    pairs: PairData
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    looks: float | None = None

    def __post_init__(self) -> None:
        if self.looks is not None and not all(len(kind) for kind in self._kinds):
            pairs, others = map(len, self._kinds)
            raise UserError(
                f"pairing.looks={self.looks:g} mixes pairs with rows of one side, and the training "
                f"rows of {self.pairs.data.name} are {pairs} and {others} of these: set "
                "pairing.paired between 0 and 1, or leave looks null"
            )
        for name, column in self.columns.items():
            if len(column) != len(self.pairs):
                raise ValueError(f"column {name!r} has {len(column)} rows for {len(self.pairs)}")

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """See `BatchSource`."""
        told = {"data": self.pairs.data.name, "digest": self.pairs.digest, "seed": self.seed}
        if self.looks is not None:
            told["looks"] = self.looks
        return told | {"columns": state_digest(self.columns)} if self.columns else told

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """This rank's part of each batch, for ever, after ``start`` samples."""
        part = rank_slice(self.batch_size, self.rank, self.world_size)
        while True:
            low, count = start + part.start, part.stop - part.start
            index = self._order(low, count)
            more = {name: column[index] for name, column in self.columns.items()}
            yield self.pairs.batch(index) | more
            start += self.batch_size

    def _order(self, start: int, count: int) -> Tensor:
        if self.looks is None:
            return order(len(self.pairs), self.seed, start, count)
        return mixed_order(*self._kinds, self.looks, self.seed, start, count)

    @cached_property
    def _kinds(self) -> tuple[Tensor, Tensor]:
        """Positions of pairs, and of the others."""
        both = self.pairs.has_text & self.pairs.has_latent
        return both.nonzero()[:, 0], (~both).nonzero()[:, 0]
