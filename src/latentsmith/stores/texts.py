"""Text embeddings: every different text once, and which of them each sample has."""

import logging
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsmith.data.base import CorruptSample, Dataset
from latentsmith.data.memory import can_gather
from latentsmith.data.subset import Subset
from latentsmith.encoders.text.base import TextEncoder
from latentsmith.errors import UserError
from latentsmith.stores.base import FeatureStore, FieldSpec, Stored, StoreManifest, open_store
from latentsmith.stores.contents import Contents, Progress, checked, fill
from latentsmith.utils.files import atomic_path

log = logging.getLogger(__name__)

INDEX_FILE, TEXTS_FILE = "text_of_sample.safetensors", "texts.txt"
NONE = -1
"""In `Texts.of_sample`: a sample without a readable text."""

TEMPLATE = "a photo of a {}"


def text_key(text: str) -> str:
    """A text's key in a store: xxh3-128 of its UTF-8 bytes."""
    return xxhash.xxh3_128_hexdigest(text.encode())


@dataclass(frozen=True)
class Texts:
    """Different texts, and which one each sample has.

    Attributes:
        name: where they come from, for messages.
        unique: in order of first appearance; the empty prompt is the last.
        of_sample: int64 [samples], row of ``unique``, -1 where there is no readable text.
    """

    name: str
    unique: list[str]
    of_sample: Tensor

    @classmethod
    def of(cls, name: str, texts: Iterable[str | None]) -> "Texts":
        """One text (or None) for each sample, in order. Raises UserError when there is none."""
        rows: dict[str, int] = {}
        index = [
            NONE if text is None else rows.setdefault(text, len(rows)) if text else -2
            for text in texts
        ]
        of_sample = torch.tensor(index, dtype=torch.int64)
        if not (of_sample != NONE).any():
            raise UserError(f"{name} has no texts")
        of_sample[of_sample == -2] = len(rows)  # empty texts are the empty prompt
        return cls(name, [*rows, ""], of_sample)

    def source(self) -> dict[str, Any]:
        """A manifest's ``source``: name, digest of texts and index, count of samples."""
        state = xxhash.xxh3_128()
        for text in self.unique:
            part = text.encode()
            state.update(len(part).to_bytes(8, "little") + part)
        state.update(self.of_sample.numpy().data)
        return {"name": self.name, "digest": state.hexdigest(), "count": len(self.of_sample)}


def captions(dataset: Dataset) -> Texts:
    """The caption of every sample of a dataset.

    Read without decoding images where the dataset can (``caption(index)``); samples that cannot
    be read have no text.

    Raises:
        UserError: the dataset has no captions.
    """
    return Texts.of(f"captions of {dataset.name}", _captions(dataset))


def _captions(dataset: Dataset) -> Iterable[str | None]:
    if can_gather(dataset):
        for rows in torch.arange(len(dataset)).split(256):
            batch = dataset.gather(rows)
            if "caption" not in batch:
                raise _no_captions(dataset)
            yield from batch["caption"]
        return
    with ThreadPoolExecutor(8, thread_name_prefix="latentsmith-captions") as pool:
        yield from pool.map(lambda index: _caption(dataset, index), range(len(dataset)))


def _caption(dataset: Dataset, index: int) -> str | None:
    """Raises UserError when the sample is readable but has no caption."""
    while isinstance(dataset, Subset):
        index, dataset = int(dataset.indices[index]), dataset.dataset
    quick: Callable[[int], str | None] | None = getattr(dataset, "caption", None)
    try:
        text = dataset[index].get("caption") if quick is None else quick(index)
    except CorruptSample:
        return None
    if text is None:
        raise _no_captions(dataset)
    return text


def _no_captions(dataset: Dataset) -> UserError:
    return UserError(
        f"dataset {dataset.name} gives no captions: set data.captions=true (image_folder) or "
        "data.caption=COLUMN (hf_dataset), give its list a column caption (image_list, zip_csv), "
        "store its class names by --template 'a photo of a {}', or a file of texts by --texts FILE"
    )


def class_texts(dataset: Dataset, template: str = TEMPLATE) -> Texts:
    """``template`` with each class name in the place of ``{}``; "samples" are the classes, so
    that a label finds its row, and the row after the last is the empty prompt.

    Raises:
        UserError: no classes, or a template without ``{}``.
    """
    if not dataset.classes:
        raise UserError(f"dataset {dataset.name} has no classes to make texts of")
    if "{}" not in template:
        raise UserError(f"template {template!r} has no {{}} for the class name to go to")
    texts = [template.replace("{}", name) for name in dataset.classes]
    return Texts.of(f"class names of {dataset.name}", texts)


def file_texts(path: Path) -> Texts:
    """One text a line (UTF-8, stripped); an empty line is the empty prompt.

    Raises:
        UserError: no such file, not UTF-8, or empty.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read texts from {path}: {error}") from error
    return Texts.of(f"texts of {Path(path).name}", [line.strip() for line in lines])


def text_contents(encoder: TextEncoder, texts: Texts, *, dtype: Stored = "float16") -> Contents:
    """What a store of text embeddings holds: a row for each different text, keyed by `text_key`.

    Fields: ``embedding`` [D]; or, when the encoder's ``output`` is ``sequence``, ``embedding``
    [L, D] and ``mask`` int64 [L], 1 where there is a token, and, where networks are told it too
    (`TextEncoder.pools`: SDXL), ``pooled`` [P], the whole text's. Beside the rows lie the texts
    themselves and which row each sample has (`text_rows`).

    Raises:
        UserError: while computing: an embedding that is not finite, naming the text.
    """
    sequence = encoder.output == "sequence"
    fields = {"embedding": FieldSpec((encoder.dim,), dtype)}
    if sequence:
        shape = (encoder.length, encoder.width)
        fields = {
            "embedding": FieldSpec(shape, dtype),
            "mask": FieldSpec((encoder.length,), "int64"),
        }
        if encoder.pools:
            fields["pooled"] = FieldSpec((encoder.dim,), dtype)
    manifest = StoreManifest(
        "text", fields, len(texts.unique), dict(encoder.fingerprint()), texts.source()
    )
    files = {INDEX_FILE: _index_writer(texts), TEXTS_FILE: _text_writer(texts)}
    keys = [text_key(text) for text in texts.unique]
    return Contents(manifest, keys, _Embeddings(encoder, texts.unique, dtype), files)


class _Embeddings:
    """Computes rows of a text store; counts texts that were cut."""

    def __init__(self, encoder: TextEncoder, texts: list[str], dtype: Stored):
        self.encoder, self.texts = encoder, texts
        self.dtype: Stored = dtype
        self.cut = 0

    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        texts = [self.texts[row] for row in rows.tolist()]
        out = self.encoder(texts)
        self.cut += int(out.cut.sum())

        def name(i: int) -> str:
            return repr(texts[i] if len(texts[i]) < 80 else texts[i][:77] + "...")

        if self.encoder.output == "embedding":
            return {"embedding": checked(out.embedding, self.dtype, name, "the embedding")}, {}
        values = checked(out.sequence, self.dtype, name, "the embedding")
        found = {"embedding": values, "mask": out.mask.long().cpu()}
        if self.encoder.pools:
            found["pooled"] = checked(out.embedding, self.dtype, name, "the pooled embedding")
        return found, {}

    def close(self) -> None:
        """Say what was lost."""
        if self.cut:
            log.warning(
                "%d of the texts computed now are longer than %d tokens and lost their end "
                "(text_encoder.length)",
                *(self.cut, self.encoder.length),
            )
            self.cut = 0


def _index_writer(texts: Texts) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with atomic_path(path) as tmp:
            save_file({"row": texts.of_sample}, tmp)

    return write


def _text_writer(texts: Texts) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        lines = [_escaped(text) + "\n" for text in texts.unique]
        with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)

    return write


def _escaped(text: str) -> str:
    """One line, and only one."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescaped(line: str) -> str:
    parts = [part.replace("\\n", "\n").replace("\\r", "\r") for part in line.split("\\\\")]
    return "\\".join(parts)


def stored_texts(store: FeatureStore) -> Texts:
    """The texts of a store and which one each sample has: ``unique[i]`` is row i.

    Raises:
        UserError: no store of texts, or its list or index is missing, damaged or another's.
    """
    folder = Path(store.path)
    try:
        lines = (folder / TEXTS_FILE).read_bytes().decode().split("\n")[:-1]
        of_sample = load_file(folder / INDEX_FILE)["row"]
    except (OSError, UnicodeDecodeError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{folder} has no readable {TEXTS_FILE} and {INDEX_FILE} ({error}): it is not a store "
            "made by 'latentsmith cache text', or damaged; run the command that made it again"
        ) from error
    texts = Texts(store.manifest.source["name"], [_unescaped(line) for line in lines], of_sample)
    if texts.source() != store.manifest.source:
        raise UserError(
            f"{folder}: {TEXTS_FILE} or {INDEX_FILE} is damaged or of another store (digest "
            f"{texts.source()['digest'][:12]}, the manifest says "
            f"{store.manifest.source['digest'][:12]}): remove both and run the command that made "
            "the store again; nothing is computed twice"
        )
    return texts


def check_texts(path: Path) -> list[str]:
    """What is wrong with the texts beside the rows of a store; nothing for other stores."""
    try:
        store = open_store(path)
        if store.manifest.content == "text":
            stored_texts(store)
    except UserError as error:
        return [str(error)]
    return []


def copy_texts(source: Path, target: Path) -> None:
    """Take the texts beside the rows of a store along, where there are any."""
    for name in (INDEX_FILE, TEXTS_FILE):
        if (Path(source) / name).is_file() and Path(target).is_dir():
            with atomic_path(Path(target) / name) as tmp:
                shutil.copyfile(Path(source) / name, tmp)


def text_rows(store: FeatureStore) -> Tensor:
    """Row of every sample's text, int64 [samples]; -1 where a sample has no readable text. Raises
    UserError as `stored_texts`."""
    return stored_texts(store).of_sample


def cache_texts(
    encoder: TextEncoder,
    texts: Texts,
    path: Path,
    *,
    dtype: Stored = "float16",
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> FeatureStore:
    """The finished store of text embeddings at ``path``: as it is, gone on with, or made now.

    See `text_contents` for what it holds, `latentsmith.stores.contents.fill` for the rest.
    """
    contents = text_contents(encoder, texts, dtype=dtype)
    return fill(
        path, contents, batch_size=batch_size, rank=rank, world_size=world_size, progress=progress
    )
