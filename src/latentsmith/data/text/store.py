"""A corpus with its latents on disk.

    texts.jsonl     a row a line: {"text": … or null, "split": "train" | "val" | "test"}
    corpus.json     what the texts are and how they were chosen
    latents-…/      a store of shards, keyed by row number: [K0, D] of each row that has a latent;
                    one for each encoder that was asked

Texts without latents and latents without texts are rows like the others; the flags ``has_text``
and ``has_latent`` follow from what is there. Token numbers are no part of it: they depend on a
vocabulary, which is cheap to change, while latents are not. `TextLatents.tokens` keeps them in
``tokens-<digest>.safetensors`` beside the texts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsmith.data.text.split import SPLITS, TextSplit
from latentsmith.data.text.tokens import Tokenizer
from latentsmith.data.text.tokens.base import Tokens
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore, open_store
from latentsmith.utils.digest import json_digest
from latentsmith.utils.files import atomic_path, write_json

TEXTS_FILE, CORPUS_FILE, LATENTS = "texts.jsonl", "corpus.json", "latents-"
FIELD = "latent"
FORMAT = 1


@dataclass(frozen=True)
class CorpusInfo:
    """What a stored corpus is.

    Attributes:
        name, origin, licence: see `latentsmith.data.text.base.Corpus`.
        digest: of texts and splits (`rows_digest`).
        count: rows.
        selection: how rows were chosen: counts, seed, lengths, what was left out.
    """

    name: str
    origin: str
    licence: str
    digest: str
    count: int
    selection: dict[str, Any]
    format: int = FORMAT


def rows_digest(texts: Sequence[str | None], split: Sequence[TextSplit]) -> str:
    """Of all texts, their order and splits."""
    state = xxhash.xxh3_128()
    for text, part in zip(texts, split, strict=True):
        line = json.dumps([text, part], ensure_ascii=False).encode()
        state.update(len(line).to_bytes(8, "little") + line)
    return state.hexdigest()


def latents_name(made_by: dict[str, Any]) -> str:
    """Folder of one encoder's latents beside the texts."""
    return f"{LATENTS}{made_by.get('kind', 'encoder')}-{json_digest(made_by)[:12]}"


def write_rows(
    path: Path, texts: Sequence[str | None], split: Sequence[TextSplit], info: CorpusInfo
) -> None:
    """Write ``texts.jsonl``, then ``corpus.json``, each whole or not at all. The latents come
    after them (`latentsmith.data.text.build`)."""
    path.mkdir(parents=True, exist_ok=True)
    with atomic_path(path / TEXTS_FILE) as tmp, tmp.open("w", encoding="utf-8") as file:
        for text, part in zip(texts, split, strict=True):
            file.write(json.dumps({"text": text, "split": part}, ensure_ascii=False) + "\n")
    write_json(path / CORPUS_FILE, asdict(info))


def read_rows(path: Path) -> tuple[list[str | None], list[TextSplit], CorpusInfo]:
    """What `write_rows` wrote.

    Raises:
        UserError: missing, damaged, or texts that are not those ``corpus.json`` tells of.
    """
    path = Path(path)
    try:
        info = CorpusInfo(**json.loads((path / CORPUS_FILE).read_text()))
        lines = (path / TEXTS_FILE).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        texts, split = [row["text"] for row in rows], [row["split"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"no readable corpus at {path}: {CORPUS_FILE} or {TEXTS_FILE} is missing or damaged "
            f"({error}). Remove the folder and run the command that made it again"
        ) from error
    found = rows_digest(texts, split)
    if found != info.digest:
        raise UserError(
            f"{path / TEXTS_FILE} is damaged or of another corpus: the digest of its rows is "
            f"{found[:12]}, {CORPUS_FILE} says {info.digest[:12]}"
        )
    return texts, split, info


class TextLatents:
    """A stored corpus, open for reading.

    Args:
        path: its folder.
        latents: which of the folder's latents (`latents_name`); None: there is one.

    Attributes:
        texts: of each row; None where it has only a latent.
        split: "train", "val" or "test" of each row.
        info: what it is.
        store: the latents, a row for each sample that has one.
        has_text, has_latent: bool [N].

    Raises:
        UserError: not finished, damaged, or latents that belong to other texts.
    """

    def __init__(self, path: Path | str, latents: str | None = None):
        self.path = Path(path)
        self.texts, self.split, self.info = read_rows(self.path)
        self.store: FeatureStore = open_store(self.path / (latents or self._only()))
        self._check_latents()
        self.has_text = torch.tensor([text is not None for text in self.texts])
        self._place = torch.full((len(self.texts),), -1, dtype=torch.int64)
        keyed = torch.tensor([int(key) for key in self.store.keys], dtype=torch.int64)
        self._place[keyed] = torch.arange(len(keyed))
        self.has_latent = self._place >= 0

    def _only(self) -> str:
        """The one folder of latents."""
        found = sorted(folder.name for folder in self.path.glob(LATENTS + "*") if folder.is_dir())
        if len(found) != 1:
            raise UserError(
                f"corpus {self.path} holds latents of {len(found)} encoders"
                + (f": name one of {', '.join(found)}" if found else ": embed its texts first")
            )
        return found[0]

    def _check_latents(self) -> None:
        made_for = self.store.manifest.source["digest"]
        if made_for != self.info.digest:
            raise UserError(
                f"the latents in {self.store.path} belong to other texts (digest "
                f"{made_for[:12]}) than {TEXTS_FILE} beside them ({self.info.digest[:12]})"
            )
        if self.store.unreadable:
            row, why = next(iter(self.store.unreadable.items()))
            raise UserError(
                f"{self.store.path} lacks the latent of row {self.store.keys[row]} ({why}): "
                "mend the source and make the corpus again; a row is never replaced by zeros"
            )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def name(self) -> str:
        """For protocol stamps."""
        return self.info.name

    @property
    def shape(self) -> tuple[int, int]:
        """(K0, D) of a latent."""
        k, d = self.store.manifest.fields[FIELD].shape
        return k, d

    @cached_property
    def digest(self) -> str:
        """Of texts, splits and latents."""
        return json_digest([self.info.digest, self.store.manifest.fingerprint()])

    def rows(self, split: TextSplit, *, text: bool = True, latent: bool = True) -> Tensor:
        """Rows int64 of a split, ascending: those that have a text and a latent, unless less is
        asked for."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: one of {', '.join(SPLITS)}")
        keep = torch.tensor([part == split for part in self.split])
        if text:
            keep &= self.has_text
        if latent:
            keep &= self.has_latent
        return keep.nonzero()[:, 0]

    def latents(self, rows: Tensor) -> Tensor:
        """Rows int64 [B] → raw latents float32 [B, K0, D].

        Raises:
            UserError: a row without a latent.
        """
        places = self._place[rows]
        if (places < 0).any():
            raise UserError(f"row {int(rows[places < 0][0])} of corpus {self.name} has no latent")
        return self.store.gather(places, fields=[FIELD])[FIELD].float()

    def texts_of(self, rows: Tensor) -> list[str]:
        """Rows int64 [B] → texts. Raises UserError for a row without a text."""
        found = [self.texts[row] for row in rows.tolist()]
        if None in found:
            raise UserError(f"row {int(rows[found.index(None)])} of {self.name} has no text")
        return [text for text in found if text is not None]

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        """Token rows of the whole corpus, [N, L]; rows without text are PAD, of length 0.

        Made once for each tokenizer and kept beside the texts. Raises as `Tokenizer.number`.
        """
        digest = json_digest([tokenizer.fingerprint(), self.info.digest])
        path = self.path / f"tokens-{digest[:16]}.safetensors"
        try:
            found = load_file(path)
            return Tokens(found["ids"].long(), found["length"].long())
        except (OSError, SafetensorError, KeyError):
            made = self._number(tokenizer)
        small = {"ids": made.ids.int(), "length": made.length.int()}
        with atomic_path(path) as tmp:
            save_file(small, tmp)
        return made

    def _number(self, tokenizer: Tokenizer) -> Tokens:
        rows = self.has_text.nonzero()[:, 0]
        some = tokenizer.encode(self.texts_of(rows))
        ids = torch.full((len(self), tokenizer.length), tokenizer.pad_id, dtype=torch.int64)
        length = torch.zeros(len(self), dtype=torch.int64)
        ids[rows], length[rows] = some.ids, some.length
        return Tokens(ids, length)

    def close(self) -> None:
        """Let go of files; the next `latents` opens them again."""
        self.store.close()
