"""Settings of a ZIP with a CSV."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, DatasetConfig, Split
from latentsmith.data.memory import seeded_subset, split_indices
from latentsmith.data.zip_csv.classes import classes_of, labels_of
from latentsmith.data.zip_csv.dataset import ZipImages
from latentsmith.data.zip_csv.growing import partial_file
from latentsmith.data.zip_csv.members import Members, find_members, list_members
from latentsmith.data.zip_csv.table import Table, read_samples, read_table
from latentsmith.errors import UserError

CLASSES = "classes.csv"


@dataclass(frozen=True)
class _Source:
    """Where the samples of a split are: images and rows."""

    archive: Path
    manifest: Path


@DATASETS.register("zip_csv", help="images in a ZIP, samples in a CSV ('data prepare' writes them)")
@schema
class ZipCSVConfig(DatasetConfig):
    """Images in ZIP files whose samples a CSV lists: a row each, with a header.

    Column ``sample_id`` is the sample's key in stores. Optional: ``file`` (its member; else the
    image called like the id), ``class_id``, ``class_name``, ``caption``, ``split`` (train, val,
    test). Splits come from two archives, from two CSVs, or from the column; else a seeded fraction
    is held out.
    """

    kind: Literal["zip_csv"] = "zip_csv"
    archive: Path
    """ZIP of the images, or a folder with train.zip and val.zip, as ``latentsmith data prepare``
    writes it."""
    manifest: Path | None = None
    """CSV of the samples, of both splits if it has a column split. None: beside each ZIP, by its
    name (train.csv)."""
    val_archive: Path | None = None
    """ZIP of the validation images, if they have their own."""
    val_manifest: Path | None = None
    """CSV of the validation samples, if they have their own."""
    classes: Path | None = None
    """CSV of all classes (class_id, class_name), needed where some have no sample. None: the
    classes.csv beside the training CSV, if there is one."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction held out when nothing says what is for validation."""
    seed: int = 0
    """Seeds the split and the subsets."""
    mode: Literal["rgb", "gray"] = "rgb"
    """Decode to 3 channels or to 1."""
    train_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many training images (a seeded subset). None: all."""
    val_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many validation images (a seeded subset). None: all."""

    def build(self, split: Split, cache: Path) -> ZipImages:
        """Lists and checks samples and members; no image is read yet. Raises UserError."""
        train, val = self._sources()
        source = train if split == "train" or val is None else val
        images = list_members(source.archive)
        table = read_samples(train.manifest)
        classes = classes_of(table, self._declared(train.manifest))
        if source.manifest != train.manifest:
            table = read_samples(source.manifest)
        count = self.train_count if split == "train" else self.val_count
        keep = self._rows(table, split, apart=val is not None)
        rows = seeded_subset(keep, count, self.seed).tolist()
        chosen = {name: [column[row] for row in rows] for name, column in table.columns.items()}
        by = "file" if "file" in chosen else "sample_id"
        found = find_members(source.archive, images, chosen[by], by)
        return ZipImages(
            Members(source.archive, found),
            chosen["sample_id"],
            labels_of(table, rows, classes),
            chosen.get("caption"),
            name=f"zip_csv:{Path(self.archive).name.removesuffix('.zip')}/{split}",
            classes=classes,
            mode=self.mode,
        )

    def _sources(self) -> tuple[_Source, _Source | None]:
        """Of training, and of validation where it has an archive or a CSV of its own."""
        root = Path(self.archive).expanduser()
        archive, val_archive = root, self.val_archive
        if root.is_dir():
            archive, own = root / "train.zip", root / "val.zip"
            # an unfinished one counts: holding out training images instead would be silent
            if val_archive is None and (own.exists() or partial_file(own).exists()):
                val_archive = own
        manifest = self.manifest or archive.with_suffix(".csv")
        train = _Source(archive, Path(manifest).expanduser())
        if val_archive is None and self.val_manifest is None:
            return train, None
        val_archive = Path(val_archive or archive).expanduser()
        val_manifest = self.val_manifest or self.manifest or val_archive.with_suffix(".csv")
        return train, _Source(val_archive, Path(val_manifest).expanduser())

    def _declared(self, manifest: Path) -> Table | None:
        """The CSV of all classes."""
        path = manifest.with_name(CLASSES)
        if self.classes is not None:
            path = Path(self.classes).expanduser()
        elif not path.is_file():
            return None
        return read_table(path, "class_id")

    def _rows(self, table: Table, split: Split, apart: bool) -> Tensor:
        """Rows of a split, int64. ``apart``: validation has an archive or a CSV of its own."""
        train, val = table.rows_of("train"), table.rows_of("val")
        said = "split" in table.columns and len(val) > 0
        if not apart and not said:
            held = split_indices(len(train), split, self.val_fraction, self.seed, str(table.path))
            return torch.tensor(train, dtype=torch.int64)[held]
        rows = train if split == "train" else val
        if not rows:
            raise UserError(f"{table.path} has no row whose split is {split!r}")
        return torch.tensor(rows, dtype=torch.int64)
