"""From a corpus and an encoder to texts with latents, made once and kept."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.digests import join_digests
from latentsmith.data.text.base import Corpus, CorpusConfig
from latentsmith.data.text.split import Counts, TextSplit, assign
from latentsmith.data.text.store import (
    CORPUS_FILE,
    FIELD,
    CorpusInfo,
    TextLatents,
    latents_name,
    read_rows,
    rows_digest,
    write_rows,
)
from latentsmith.data.text.tokens import Tokenizer, TokensConfig
from latentsmith.data.text.tokens.base import Splitter
from latentsmith.encoders.text import TextEncoder
from latentsmith.errors import UserError
from latentsmith.stores.base import FieldSpec, Stored, StoreManifest
from latentsmith.stores.build import Compute, Progress
from latentsmith.stores.contents import Contents, checked, fill
from latentsmith.utils.digest import json_digest
from latentsmith.utils.lock import alone

log = logging.getLogger(__name__)

CALL = 512
"""Texts given to `Embeddings` at once: sorted by length within, so that little is padded."""


@dataclass(frozen=True)
class Selection:
    """The texts of a corpus that are used, in the source's order.

    Attributes:
        texts, split: of each row.
        left_out: why texts were not used → how many.
    """

    texts: list[str]
    split: list[TextSplit]
    left_out: dict[str, int]


def select(
    corpus: Corpus, config: CorpusConfig, tokens: TokensConfig, splitter: Splitter
) -> Selection:
    """Texts that fit ``tokens`` (`TokensConfig.fits`), each in its split.

    Raises:
        UserError: too few.
    """
    split = splitter.split(corpus.texts)
    fitting = [
        text for text, pieces in zip(corpus.texts, split, strict=True) if tokens.fits(pieces)
    ]
    counts = Counts(config.train_count, config.val_count, config.test_count)
    lengths = f"{tokens.shortest} to {tokens.length - 1} pieces"
    try:
        parts = assign(fitting, counts, config.seed)
    except UserError as error:
        raise UserError(f"corpus {corpus.name}, texts of {lengths}: {error}") from error
    texts = [text for text, part in zip(fitting, parts, strict=True) if part is not None]
    used: list[TextSplit] = [part for part in parts if part is not None]
    left_out = {
        "duplicate or empty": corpus.lines - len(corpus.texts),
        f"not {lengths}": len(split) - len(fitting),
        "not needed": len(fitting) - len(used),
    }
    return Selection(texts, used, left_out)


def write_corpus(corpus: Corpus, config: CorpusConfig, tokens: TokensConfig, folder: Path) -> Path:
    """The corpus's rows, without latents, in a folder of their own below ``folder``; as they lie
    there where they were written before.

    Returns:
        The folder, named by everything that decides which rows there are.

    Raises:
        UserError: as `select`, or the splitter cannot be had.
    """
    splitter = tokens.splitter()
    how = {
        "texts": join_digests(corpus.texts),
        "counts": [config.train_count, config.val_count, config.test_count],
        "seed": config.seed,
        "pieces": [tokens.shortest, tokens.length - 1],
        "splitter": splitter.fingerprint(),
    }
    path = Path(folder) / f"{corpus.name}-{json_digest(how)[:16]}"
    with alone(path):
        if (path / CORPUS_FILE).is_file():
            return path
        chosen = select(corpus, config, tokens, splitter)
        told = {**how, "left_out": chosen.left_out}
        count, digest = len(chosen.texts), rows_digest(chosen.texts, chosen.split)
        info = CorpusInfo(corpus.name, corpus.origin, corpus.licence, digest, count, told)
        write_rows(path, chosen.texts, chosen.split, info)
    return path


class Embeddings:
    """Computes latents [b, 1, D] of texts.

    Args:
        encoder: whose ``embedding`` is taken.
        texts: of all rows.
        stored: dtype they are kept in.
        batch_size: texts in one forward pass.
    """

    def __init__(
        self, encoder: TextEncoder, texts: list[str], stored: Stored, batch_size: int = 64
    ):
        self.encoder, self.texts, self.batch_size = encoder, texts, batch_size
        self.stored: Stored = stored

    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        """See `latentsmith.stores.build.Compute`.

        Raises:
            UserError: a text the encoder would cut (its latent would describe a part of it), or a
                latent that is not finite.
        """
        texts = [self.texts[row] for row in rows.tolist()]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[Tensor] = []
        for first in range(0, len(order), self.batch_size):
            some = [texts[i] for i in order[first : first + self.batch_size]]
            out = self.encoder(some)
            if out.cut.any():
                raise UserError(
                    f"text {some[int(out.cut.nonzero()[0])]!r} is longer than the "
                    f"{self.encoder.length} tokens its encoder reads: raise text_encoder.length or "
                    "lower tokens.length"
                )
            kept = checked(
                out.embedding, self.stored, lambda i, some=some: repr(some[i]), "the latent"
            )
            found.append(kept)
        values = torch.cat(found)[torch.tensor(order).argsort()]
        return {FIELD: values[:, None]}, {}


def embed(
    path: Path,
    encoder: TextEncoder,
    *,
    stored: Stored = "float16",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> TextLatents:
    """The corpus at ``path`` with ``encoder``'s embeddings as latents [1, D] of its texts: as they
    lie there, gone on with where that was interrupted, or made now.

    Args:
        stored: dtype of the latents on disk.
        batch_size: texts in one forward pass.

    Raises:
        UserError: a text that cannot be embedded, damaged files, no room on the disk.
    """
    texts, _, info = read_rows(path)
    rows = [row for row, text in enumerate(texts) if text is not None]
    compute = Embeddings(encoder, [texts[row] or "" for row in rows], stored, batch_size)
    contents = latent_contents(
        info, list(map(str, rows)), (1, encoder.dim), encoder.fingerprint(), stored, compute
    )
    name = latents_name(contents.manifest.encoder)
    fill(path / name, contents, batch_size=CALL, rows_per_shard=2 * CALL, progress=progress)
    return TextLatents(path, name)


def latent_contents(
    info: CorpusInfo,
    keys: Sequence[str],
    shape: tuple[int, int],
    made_by: dict[str, Any],
    stored: Stored,
    compute: Compute,
) -> Contents:
    """The store of a corpus's latents.

    Args:
        keys: row numbers as text, of the rows that have a latent.
        shape: (K0, D).
        made_by: fingerprint of the encoder.
        compute: see `latentsmith.stores.build.Compute`.
    """
    source = {"name": info.name, "digest": info.digest, "count": info.count}
    fields = {FIELD: FieldSpec(shape, stored)}
    made = {**made_by, "stored": stored}
    return Contents(StoreManifest("vectors", fields, len(keys), made, source), keys, compute)


def prepare(
    config: CorpusConfig,
    tokens: TokensConfig,
    encoder: TextEncoder,
    cache: Path,
    *,
    progress: Progress | None = None,
) -> tuple[TextLatents, Tokenizer]:
    """A corpus by its settings, with latents, and the tokenizer of its training texts.

    Args:
        cache: fetched files and the made corpus are kept below it.

    Raises:
        UserError: as `CorpusConfig.read`, `write_corpus` and `embed`.
    """
    corpus = config.read(cache / "data")
    path = write_corpus(corpus, config, tokens, cache / "corpora")
    data = embed(path, encoder, progress=progress)
    tokenizer = fit_tokenizer(data, tokens)
    unknown = tokenizer.unknown_share(data.tokens(tokenizer))
    log.info(
        "corpus %s: %d train, %d val, %d test texts, %d pieces known, %.1f %% [UNK], from %s",
        *(data.name, *(len(data.rows(part)) for part in ("train", "val", "test"))),
        *(tokenizer.size - 4, 100 * unknown, corpus.origin),
    )
    return data, tokenizer


def fit_tokenizer(data: TextLatents, tokens: TokensConfig) -> Tokenizer:
    """The tokenizer whose vocabulary is that of the training texts, with or without latents."""
    splitter = tokens.splitter()
    texts = data.texts_of(data.rows("train", latent=False))
    return tokens.fit(splitter.split(texts), splitter)
