"""Images from the ``datasets`` library: a hub id, a ``save_to_disk`` folder, or an image folder."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import xxhash
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, CorruptSample, DatasetConfig, Sample, Split
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.digests import join_digests, remembered
from latentsmith.data.edited import warn_without_captions
from latentsmith.data.memory import seeded_subset, split_indices
from latentsmith.errors import UserError, nearest

FILES = ("image", "target")
TEXTS = ("caption", "instruction", "target_caption")
EDIT = ("target", "instruction", "target_caption")
"""Keys of samples: of images, of texts, and those that only edits have."""


class HFImages:
    """A table of ``datasets`` as samples ``{"image", "label", "caption"}``; of edits also
    ``{"target", "instruction", "target_caption" (where it is named)}``.

    Args:
        table: a ``datasets.Dataset`` whose image columns are cast to ``Image(decode=False)``.
        columns: our key → the table's column.
        label_ids: value in the label column → class index.
    """

    def __init__(
        self,
        table: Any,
        columns: dict[str, str],
        *,
        name: str,
        classes: list[str] | None,
        label_ids: dict[Any, int] | None,
        mode: Mode,
        origin: str,
        cache: Path,
    ):
        self.table, self.columns = table, columns
        self.mode: Mode = mode
        self.name, self.classes, self.origin = name, classes, origin
        self.image_keys = tuple(key for key in FILES if key in columns)
        self._label_ids, self._cache = label_ids, cache

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        row = self.table[index]
        where = f"row {index} of {self.name}"
        sample: Sample = {
            key: self._image(row[self.columns[key]], key, where) for key in self.image_keys
        }
        if self._label_ids is not None:
            label = row[self.columns["label"]]
            if label not in self._label_ids:
                raise CorruptSample(f"{where}: label {label!r} is not one of the training classes")
            sample["label"] = self._label_ids[label]
        sample |= {key: _text(row[self.columns[key]]) for key in TEXTS if key in self.columns}
        if "target" in self.columns:
            sample.setdefault("caption", "")
        return sample

    def _image(self, value: Any, key: str, where: str) -> Tensor:
        if value is None:
            raise CorruptSample(f"{where}: no {key}")
        source = value["bytes"] if value["bytes"] is not None else Path(value["path"])
        return decode_image(source, self.mode, where if key == "image" else f"{where}, {key}")

    def caption(self, index: int) -> str | None:
        """A sample's caption without reading its images; None when there are none."""
        if "caption" not in self.columns:
            return "" if "target" in self.columns else None
        return self._told("caption", index)

    def instruction(self, index: int) -> str | None:
        """A sample's instruction without reading its images; None when there are none."""
        return self._told("instruction", index) if "instruction" in self.columns else None

    def _told(self, key: str, index: int) -> str:
        return _text(self._texts[index][self.columns[key]])

    @cached_property
    def _texts(self) -> Any:
        """The table without its images."""
        return self.table.select_columns([self.columns[k] for k in TEXTS if k in self.columns])

    @property
    def labels(self) -> list[int] | None:
        """Class of every sample, without reading images; -1 where it is no class of training."""
        if self._label_ids is None:
            return None
        return [self._label_ids.get(value, -1) for value in self.table[self.columns["label"]]]

    def file_names(self) -> list[str] | None:
        """What the images' files were called at their source; None where some have no name."""
        chunks = self.table.data.column(self.columns["image"]).chunks
        # of the structs' paths alone: the images beside them stay on disk
        paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
        if self.table._indices is not None:
            paths = [paths[row] for row in self.table._indices.column(0).to_pylist()]
        names = [Path(path or "").name for path in paths]
        return names if all(names) else None

    @property
    def digest(self) -> str:
        """Of the encoded images, labels and captions; read once, then remembered."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        files = [Path(part["filename"]) for part in self.table.cache_files]
        stats = [f"{file}\t{s.st_size}\t{s.st_mtime_ns}" for file in files for s in [file.stat()]]
        settings = [repr(sorted(self.columns.items())), self.mode, repr(self.classes)]
        key = join_digests([self.table._fingerprint, *stats, *settings])
        return remembered(self._cache, key, lambda: self._content(settings))

    def _content(self, settings: list[str]) -> str:
        state = xxhash.xxh3_128(join_digests(settings).encode())
        for part in self._bytes():
            state.update(len(part).to_bytes(8, "little") + part)
        return state.hexdigest()

    def _bytes(self) -> Iterator[bytes]:
        for row in self.table:
            for key, column in self.columns.items():
                value = row[column]
                if key not in FILES or value is None:
                    yield repr(value).encode()
                elif value["bytes"] is not None:
                    yield value["bytes"]
                else:
                    yield Path(value["path"]).read_bytes()


def _text(value: Any) -> str:
    """A text, or the first of several; none is the empty prompt."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return "" if value is None else str(value)


@DATASETS.register("hf_dataset", help="Hugging Face datasets: hub id, save_to_disk or image folder")
@schema
class HFDatasetConfig(DatasetConfig):
    """Any image dataset the ``datasets`` library opens, with its columns named."""

    kind: Literal["hf_dataset"] = "hf_dataset"
    path: str
    """Hub id (``owner/name``), folder written by ``save_to_disk``, or folder of images."""
    subset: str | None = None
    """Configuration of the hub dataset, where it has several."""
    revision: str | None = None
    """Branch, tag or commit of the hub dataset."""
    image: str = "image"
    """Column of the images."""
    label: str | None = None
    """Column of the labels (a ClassLabel, integers or strings). None: no labels."""
    caption: str | None = None
    """Column of the captions (a string, or a list whose first is taken). None: no captions."""
    target: str | None = None
    """Column of the edited images, with ``instruction``. None: no edits."""
    instruction: str | None = None
    """Column of the instructions, with ``target``: what to change in ``image``."""
    target_caption: str | None = None
    """Column of the edited images' captions. None: not read."""
    train_split: str = "train"
    """Name of the training split."""
    val_split: str | None = None
    """Name of the validation split. None: a seeded fraction of the training split is held out."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction held out when ``val_split`` is None."""
    seed: int = 0
    """Seeds the split and the subsets."""
    mode: Literal["rgb", "gray"] = "rgb"
    """Decode to 3 channels or to 1."""
    train_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many training images (a seeded subset). None: all."""
    val_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many validation images (a seeded subset). None: all."""

    def __post_init__(self) -> None:
        if (self.target is None) != (self.instruction is None):
            has, lacks = ("target", "instruction") if self.target else ("instruction", "target")
            raise ValueError(
                f"{has}={getattr(self, has)} and no {lacks}: an edit needs both, the edited image "
                f"and what was to be done; name the column by {lacks}=COLUMN"
            )
        if self.target_caption is not None and self.target is None:
            raise ValueError(
                f"target_caption={self.target_caption} is of edited images: name their column by "
                "target=COLUMN, and the instructions' by instruction=COLUMN"
            )

    def build(self, split: Split, cache: Path) -> HFImages:
        """Open (and for a hub id download) one split. Raises UserError naming path, splits or
        columns there are."""
        from datasets import Image

        train = self._open(self.train_split)
        columns = self._columns(train)
        classes, label_ids = self._classes(train)
        table = train
        if self.val_split is not None:
            table = self._open(self.val_split) if split == "val" else train
            self._columns(table)
            keep = torch.arange(len(table))
        else:
            keep = split_indices(len(train), split, self.val_fraction, self.seed, self.path)
        keep = seeded_subset(
            keep, self.train_count if split == "train" else self.val_count, self.seed
        )
        table = table.select_columns(list(dict.fromkeys(columns.values())))
        for key in FILES:
            if key in columns:
                table = table.cast_column(columns[key], Image(decode=False))
        if len(keep) < len(table):
            table = table.select(keep.tolist())
        name = f"{self.path}/{split}"
        if self.target is not None and self.caption is None:
            warn_without_captions(name, split)
        return HFImages(
            table,
            columns,
            name=name,
            classes=classes,
            label_ids=label_ids,
            mode=self.mode,
            origin=f"datasets {self.path}" + (f"@{self.revision}" if self.revision else ""),
            cache=cache,
        )

    def _open(self, split: str) -> Any:
        """The ``datasets.Dataset`` of one of its splits."""
        from datasets import Dataset, load_dataset, load_from_disk

        folder = Path(self.path).expanduser()
        try:
            if not folder.is_dir():
                if self.path.startswith(("/", ".", "~")):
                    raise UserError(f"dataset folder {folder} does not exist")
                return load_dataset(self.path, self.subset, split=split, revision=self.revision)
            if not any(folder.glob("dataset_dict.json")) and not any(folder.glob("state.json")):
                return load_dataset("imagefolder", data_dir=str(folder), split=split)
            saved = load_from_disk(str(folder))
        except UserError:
            raise
        except Exception as error:  # datasets, its hub client and Arrow share no base class
            raise UserError(
                f"dataset {self.path!r}, split {split!r}, cannot be opened: "
                f"{type(error).__name__}: {error}\n"
                "It must be a hub id that can be reached, a folder written by save_to_disk, or a "
                "folder of images."
            ) from error
        if isinstance(saved, Dataset):
            if split == self.train_split:
                return saved
            raise UserError(
                f"dataset folder {folder} was saved without splits; leave out val_split={split!r} "
                "and a fraction is held out"
            )
        if split not in saved:
            raise UserError(
                f"dataset {folder} has no split {split!r}. {nearest(split, map(str, saved))}"
            )
        return saved[split]

    def _columns(self, table: Any) -> dict[str, str]:
        wanted = {key: getattr(self, key) for key in ("image", "label", "caption", *EDIT)}
        columns = {key: column for key, column in wanted.items() if column is not None}
        for key, column in columns.items():
            if column not in table.column_names:
                raise UserError(
                    f"dataset {self.path!r} has no column {column!r} (setting {key!r}). "
                    f"It has: {', '.join(table.column_names)}"
                )
        from datasets import Image

        for key in FILES:
            column = columns.get(key)
            if column is not None and not isinstance(table.features[column], Image):
                raise UserError(
                    f"column {column!r} of dataset {self.path!r} (setting {key!r}) holds "
                    f"{table.features[column]}, not images"
                )
        return columns

    def _classes(self, train: Any) -> tuple[list[str] | None, dict[Any, int] | None]:
        """Class names, and label value → class index, from the training split."""
        if self.label is None:
            return None, None
        from datasets import ClassLabel

        feature = train.features[self.label]
        if isinstance(feature, ClassLabel):
            return list(feature.names), {k: k for k in range(len(feature.names))}
        values = sorted(value for value in train.unique(self.label) if value is not None)
        return [str(value) for value in values], {value: k for k, value in enumerate(values)}
