"""Settings of a list of images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Split
from latentsmith.data.edited import warn_without_captions
from latentsmith.data.image_list.columns import EDIT, FILES, SHOWN, choose_columns, take_columns
from latentsmith.data.image_list.dataset import ImageList
from latentsmith.data.image_list.reading import read_list
from latentsmith.data.memory import seeded_subset, split_indices
from latentsmith.data.zip_csv.table import Table
from latentsmith.errors import UserError
from latentsmith.utils.files import leads_out


@dataclass(frozen=True)
class _Listed:
    """A list that was read: rows by keys of samples, and what its names are relative to."""

    root: Path
    table: Table

    @property
    def edits(self) -> bool:
        return "target" in self.table.columns

    def keys(self) -> list[str]:
        """Of all rows, unique. An image with several edits has several rows."""
        images = self.table.columns["image"]
        if len(set(images)) == len(images):
            return images
        rows = zip(self.table.lines, images, strict=True)
        return [f"{line}/{image}" for line, image in rows]

    def missing(self) -> list[str]:
        """Line, key and path of each file that is not there, where it is named first."""
        first: dict[str, str] = {}
        for key in FILES:
            names = self.table.columns.get(key, [])
            for line, name in zip(self.table.lines, names, strict=False):
                first.setdefault(name, f"line {line}, {key}: {self.root / name}")
        with ThreadPoolExecutor(8, thread_name_prefix="latentsmith-files") as pool:
            there = pool.map(lambda name: _is_file(self.root / name), first)
        return [where for where, found in zip(first.values(), there, strict=True) if not found]


def _is_file(path: Path) -> bool:
    """Also of a text that can be no path, such as a caption from a wrong column."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@DATASETS.register(
    "image_list", help="images named in a CSV, TSV or JSONL file, with captions or with edits"
)
@schema
class ImageListConfig(DatasetConfig):
    """Images that a file lists: a row each, in a CSV or TSV with a header or a JSONL of objects.

    A row names an image and may have its caption. A list of edits also has in every row the image
    after the edit and the instruction. A column ``split`` (train, val, test) says what is for
    validation; else a seeded fraction of the images is held out, each with all its edits.
    """

    kind: Literal["image_list"] = "image_list"
    file: Path
    """The list: .csv, .tsv or .jsonl, UTF-8."""
    val_file: Path | None = None
    """List of the validation images, if they have their own."""
    root: Path | None = None
    """Folder that names in the list are relative to. None: the list's own."""
    outside: bool = False
    """Names may also lead out of that folder, absolute or by ``..``: for lists of your own."""
    edits: bool = True
    """Read edits where the list has them. false: images and captions only."""
    image: str | None = None
    """Column of the images. None: the first there is of image, source, source_image, source_img,
    input_image, original_image, file_name, file."""
    target: str | None = None
    """Column of the edited images. None: target, target_image, target_img or edited_image."""
    instruction: str | None = None
    """Column of the instructions. None: instruction or edit_prompt."""
    caption: str | None = None
    """Column of the images' captions. None: caption, text, original_prompt or input_prompt. An
    empty one is the empty prompt."""
    target_caption: str | None = None
    """Column of the edited images' captions. None: target_caption or edited_prompt."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of the images held out when nothing says what is for validation."""
    seed: int = 0
    """Seeds the split and the subsets."""
    mode: Literal["rgb", "gray"] = "rgb"
    """Decode to 3 channels or to 1."""
    train_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many training rows (a seeded subset). None: all."""
    val_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many validation rows (a seeded subset). None: all."""

    def __post_init__(self) -> None:
        named = [key for key in EDIT if getattr(self, key) is not None]
        if named and not self.edits:
            raise ValueError(
                f"{named[0]}={getattr(self, named[0])} names a column of edits, and edits is "
                "false: leave out one of the two"
            )

    def build(self, split: Split, cache: Path) -> ImageList:
        """Reads and checks the list; no image is read yet. Raises UserError naming lines."""
        train = listed = self._read(self.file)
        if self.val_file is not None and split == "val":
            listed = self._read(self.val_file)
            _check_alike(train, listed)
        count = self.train_count if split == "train" else self.val_count
        found = torch.tensor(self._rows(listed.table, split), dtype=torch.int64)
        rows = seeded_subset(found, count, self.seed).tolist()
        columns = {
            key: [texts[row] for row in rows]
            for key, texts in listed.table.columns.items()
            if key != "split"
        }
        name = f"image_list:{Path(self.file).stem}/{split}"
        if listed.edits and "caption" not in columns:
            columns["caption"] = [""] * len(rows)
            warn_without_captions(name, split)
        keys = listed.keys()
        return ImageList(
            listed.root,
            columns,
            [keys[row] for row in rows],
            name=name,
            origin=f"list {listed.table.path}",
            mode=self.mode,
            cache=cache,
        )

    def _read(self, file: Path) -> _Listed:
        """A list, and that all its files are there: also those of the other split, so that this is
        told before hours of training."""
        path = Path(file).expanduser()
        table = read_list(path)
        named = {key: getattr(self, key) for key in (*FILES, *EDIT, "caption")}
        columns = choose_columns(table, named, self.edits)
        root = path.parent if self.root is None else Path(self.root).expanduser()
        listed = _Listed(root, take_columns(table, columns))
        if not self.outside:
            _refuse_outside(listed)
        missing = listed.missing()
        if missing:
            more = [f"… and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
            told = "\n  ".join([*missing[:SHOWN], *more])
            relative = "the list's folder; root=FOLDER says another" if self.root is None else root
            raise UserError(
                f"{path} names {len(missing)} files that do not exist (names are relative to "
                f"{relative}):\n  {told}"
            )
        return listed

    def _rows(self, table: Table, split: Split) -> list[int]:
        """Rows of a split."""
        train, val = table.rows_of("train"), table.rows_of("val")
        if self.val_file is None and not ("split" in table.columns and val):
            return self._held_out(table, train, split)
        rows = train if split == "train" else val
        if not rows:
            raise UserError(f"{table.path} has no row whose split is {split!r}")
        return rows

    def _held_out(self, table: Table, rows: list[int], split: Split) -> list[int]:
        """By images and not by rows: an image whose other edit is trained on is not held out."""
        images = [table.columns["image"][row] for row in rows]
        unique = list(dict.fromkeys(images))
        kept = split_indices(
            len(unique), split, self.val_fraction, self.seed, f"images of {table.path}"
        )
        chosen = {unique[k] for k in kept.tolist()}
        return [row for row, image in zip(rows, images, strict=True) if image in chosen]


def _refuse_outside(listed: _Listed) -> None:
    """A list from elsewhere must not put files of this machine into a dataset."""
    for key in FILES:
        names = listed.table.columns.get(key, [])
        for line, name in zip(listed.table.lines, names, strict=False):
            if leads_out(name):
                raise UserError(
                    f"{listed.table.path}, line {line}, {key}: {name} lies outside {listed.root}: "
                    "name files relative to a folder that holds them all (root=FOLDER), or set "
                    "outside=true if you trust the list"
                )


def _check_alike(train: _Listed, val: _Listed) -> None:
    """Captions in both or in none; edits likewise."""
    for key in ("target", "caption"):
        have = [key in listed.table.columns for listed in (train, val)]
        if have[0] != have[1]:
            has, lacks = (train, val) if have[0] else (val, train)
            raise UserError(
                f"{has.table.path} has a column for {key} and {lacks.table.path} has none: "
                "training and validation must be alike"
            )
