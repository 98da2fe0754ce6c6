"""Texts with latents that somebody else's encoder made: JSON that names a ``.npy`` for each text.

    train_data.json    [{"text": "…", "latent_path": "latents/train/0001.npy"}, …]
    latents/train/0001.npy    [D] or [K0, D]

The layout of MM-LDLM's preprocessing (several such files, each a list of objects; also JSON lines,
or one object text → path). Rows may have a text only or a latent only. Nothing is skipped: a row
that cannot be read ends the import, since a row of zeros would train like any other.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.digests import files_digest
from latentsmith.data.text.build import latent_contents
from latentsmith.data.text.split import Counts, TextSplit, assign
from latentsmith.data.text.store import (
    CORPUS_FILE,
    FIELD,
    CorpusInfo,
    TextLatents,
    latents_name,
    rows_digest,
    write_rows,
)
from latentsmith.errors import UserError, nearest
from latentsmith.stores.base import Stored
from latentsmith.stores.build import Progress
from latentsmith.stores.contents import checked, fill
from latentsmith.utils.files import leads_out
from latentsmith.utils.lock import alone


@schema
class ImportConfig:
    """Which JSON files, and where their texts and latents stand."""

    files: list[Path]
    """JSON or JSON lines, read one after another."""
    root: Path | None = None
    """Folder that latent paths are relative to. None: that of the JSON file."""
    outside: bool = False
    """Latent paths may also lead out of that folder, absolute or by ``..``: for files of your
    own."""
    text: str = "text"
    """Key of the text; null or missing: a latent without text."""
    latent: str = "latent_path"
    """Key of the latent's file; null or missing: a text without latent."""
    name: str = "imported"
    """What to call the corpus."""
    encoder: str = "unknown"
    """What made the latents, as its name and version; a model is tied to it."""
    stored: Stored = "float32"
    """How latents are kept."""
    train_count: Annotated[int, Field(ge=1)] | None = None
    """Training texts. None: all that are not held out."""
    val_count: Annotated[int, Field(ge=1)] = 2_000
    """Held-out pairs that choices are made on."""
    test_count: Annotated[int, Field(ge=1)] = 2_000
    """Held-out pairs that are measured."""
    seed: int = 0
    """Seeds which texts are held out. The files' own splits are not kept: equal texts may lie on
    both sides of them."""


@dataclass(frozen=True)
class _Row:
    """One line of the source."""

    text: str | None
    latent: Path | None
    where: str


def import_corpus(
    config: ImportConfig, folder: Path, cache: Path, *, progress: Progress | None = None
) -> TextLatents:
    """The files' rows as a corpus below ``folder``: as it lies there, gone on with, or made now.

    Only pairs are held out; rows with one side train.

    Args:
        cache: where digests of files are remembered.

    Raises:
        UserError: a file or row that cannot be read, latents of several shapes, too few pairs.
    """
    rows = [row for file in config.files for row in _rows(config, Path(file).expanduser())]
    split = _split(config, rows)
    kept = [row for row, part in zip(rows, split, strict=True) if part is not None]
    parts: list[TextSplit] = [part for part in split if part is not None]
    texts, paths = [row.text for row in kept], [row.latent for row in kept]
    there = [i for i, path in enumerate(paths) if path is not None]
    if not there:
        raise UserError(f"no row of {_named(config)} has a latent (key {config.latent!r})")
    files = [path for path in paths if path is not None]
    shape = _read(files[0], None).shape
    made_by = {"kind": "imported", "encoder": config.encoder}
    made_by["files"] = files_digest(Path(config.files[0]).expanduser().parent, files, cache)
    digest = rows_digest(texts, parts)
    path = Path(folder) / f"{config.name}-{digest[:16]}"
    chosen = {"seed": config.seed, "left_out": {"not needed": len(rows) - len(kept)}}
    origin = f"imported from {_named(config)}"
    info = CorpusInfo(config.name, origin, "", digest, len(kept), chosen)
    with alone(path):
        if not (path / CORPUS_FILE).is_file():
            write_rows(path, texts, parts, info)
    compute = _Reader(files, (shape[0], shape[1]), config.stored)
    keys = list(map(str, there))
    contents = latent_contents(info, keys, compute.shape, made_by, config.stored, compute)
    name = latents_name(contents.manifest.encoder)
    fill(path / name, contents, batch_size=512, progress=progress)
    return TextLatents(path, name)


def _named(config: ImportConfig) -> str:
    return ", ".join(Path(file).name for file in config.files)


def _rows(config: ImportConfig, file: Path) -> Iterator[_Row]:
    root = file.parent if config.root is None else Path(config.root).expanduser()
    for number, value in enumerate(_objects(file, config)):
        where = f"{file}, row {number}"
        if not isinstance(value, dict):
            raise UserError(f"{where} is no object but {str(value)[:60]!r}")
        text, latent = value.get(config.text), value.get(config.latent)
        if text is None and latent is None:
            raise UserError(
                f"{where} has neither text ({config.text!r}) nor latent ({config.latent!r}). "
                f"{nearest(config.latent, value)}"
            )
        for key, part in ((config.text, text), (config.latent, latent)):
            if part is not None and not isinstance(part, str):
                raise UserError(f"{where}: {key!r} holds {part!r}, not a text")
        if text is not None and not text.strip():
            raise UserError(f"{where}: the text is empty")
        if latent is not None and leads_out(latent) and not config.outside:
            raise UserError(
                f"{where}: {latent} lies outside {root}: name latents relative to a folder that "
                "holds them all (root=FOLDER), or set outside=true if you trust the file"
            )
        cleaned = None if text is None else " ".join(text.split())
        yield _Row(cleaned, None if latent is None else root / latent, where)


def _objects(file: Path, config: ImportConfig) -> list[Any]:
    """The rows of a JSON or JSON-lines file."""
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            return [json.loads(line) for line in content.splitlines() if line.strip()]
        value = json.loads(content)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and all(isinstance(path, str) for path in value.values()):
        return [{config.text: text, config.latent: path} for text, path in value.items()]
    raise UserError(
        f"{file} holds neither a list of objects nor an object of texts and latent paths"
    )


def _split(config: ImportConfig, rows: list[_Row]) -> list[TextSplit | None]:
    """Pairs by their texts' digests; a row with one side trains, unless its text is held out."""
    counts = Counts(config.train_count, config.val_count, config.test_count)
    pairs = [row.text for row in rows if row.text is not None and row.latent is not None]
    try:
        found = assign(pairs, counts, config.seed)
    except UserError as error:
        raise UserError(f"{_named(config)}: {error}") from error
    place = dict(zip(pairs, found, strict=True))
    held = {text.casefold() for text, part in place.items() if part in ("val", "test")}
    out: list[TextSplit | None] = []
    for row in rows:
        if row.text is not None and row.latent is not None:
            out.append(place[row.text])
        else:
            known = row.text is not None and row.text.casefold() in held
            out.append(None if known else "train")
    return out


class _Reader:
    """Reads latents [b, K0, D] of rows that have one."""

    def __init__(self, files: list[Path], shape: tuple[int, int], stored: Stored):
        self.files, self.shape = files, shape
        self.stored: Stored = stored

    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        """See `latentsmith.stores.build.Compute`. Raises UserError naming the file."""
        files = [self.files[row] for row in rows.tolist()]
        values = torch.stack([_read(file, self.shape) for file in files])
        return {FIELD: checked(values, self.stored, lambda i: str(files[i]), "the latent")}, {}


def _read(file: Path, shape: tuple[int, int] | None) -> Tensor:
    """float32 [K0, D]. Raises UserError when it cannot be read or has another shape."""
    try:
        value = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the latent {file} cannot be read: {error}") from error
    if value.ndim not in (1, 2) or not np.issubdtype(value.dtype, np.floating) or not value.size:
        raise UserError(
            f"the latent {file} is {value.dtype} {list(value.shape)}, not [D] or [K0, D]"
        )
    latent = torch.from_numpy(np.atleast_2d(value).astype(np.float32))
    if shape is not None and tuple(latent.shape) != shape:
        raise UserError(
            f"the latent {file} has shape {list(latent.shape)}, the first has {list(shape)}: all "
            "must be alike (no averaging, no cutting)"
        )
    return latent
