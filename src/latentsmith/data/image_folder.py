"""A folder of image files, with one subfolder per class or none."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from latentsmith.config.schema import schema
from latentsmith.data.base import DATASETS, CorruptSample, DatasetConfig, Sample, Split
from latentsmith.data.decode import Mode, decode_image
from latentsmith.data.digests import files_digest, join_digests
from latentsmith.data.memory import seeded_subset, split_indices
from latentsmith.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImageFolder:
    """Image files as samples ``{"image", "file", "label" (with classes), "caption" (if read)}``.

    Args:
        root: what the files' names are relative to.
        files: the files, in order.
        labels: class index of each file, or None.
        cache: where the content digest is remembered.
    """

    def __init__(
        self,
        root: Path,
        files: list[Path],
        labels: list[int] | None,
        *,
        name: str,
        classes: list[str] | None,
        mode: Mode,
        captions: bool,
        cache: Path,
    ):
        self.root, self.files, self.labels = root, files, labels
        self.name, self.classes = name, classes
        self.mode: Mode = mode
        self.captions = captions
        self.origin = f"folder {root}"
        self._cache = cache

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        sample: Sample = {
            "image": decode_image(path, self.mode, str(path)),
            "file": path.relative_to(self.root).as_posix(),
        }
        if self.labels is not None:
            sample["label"] = self.labels[index]
        if self.captions:
            sample["caption"] = _read_caption(path.with_suffix(".txt"))
        return sample

    def sample_keys(self) -> list[str]:
        """Name of every file relative to the root: what a feature store calls the samples."""
        return [path.relative_to(self.root).as_posix() for path in self.files]

    def caption(self, index: int) -> str | None:
        """A sample's caption without decoding its image; None when captions are not read.

        Raises CorruptSample when its file cannot be read."""
        return _read_caption(self.files[index].with_suffix(".txt")) if self.captions else None

    @property
    def digest(self) -> str:
        """Changes with any file's name, bytes, label or caption, and with the mode."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        files = list(self.files)
        if self.captions:
            files += [path.with_suffix(".txt") for path in self.files]
        content = files_digest(self.root, files, self._cache)
        return join_digests([content, self.mode, *(self.classes or []), repr(self.labels)])


@DATASETS.register("image_folder", help="PNG/JPEG/WebP files in a folder, class subfolders or none")
@schema
class ImageFolderConfig(DatasetConfig):
    """Images of a folder. Subfolders are classes; images directly in the folder have no labels.

    A folder that holds the subfolders ``train`` and ``val`` gives the splits by them. Else
    validation comes from ``val_folder``, else a seeded fraction is held out.
    """

    kind: Literal["image_folder"] = "image_folder"
    folder: Path
    """Folder of the images, or of class folders, or of ``train`` and ``val``."""
    val_folder: Path | None = None
    """Folder of the validation images, laid out like ``folder``."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction held out when there is no validation folder."""
    seed: int = 0
    """Seeds the split and the subsets."""
    labels: bool = True
    """Subfolders are classes. false: images are taken from any depth, without labels."""
    captions: bool = False
    """Read NAME.txt beside each image as its caption."""
    mode: Literal["rgb", "gray"] = "rgb"
    """Decode to 3 channels or to 1."""
    train_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many training images (a seeded subset). None: all."""
    val_count: Annotated[int, Field(ge=1)] | None = None
    """Use at most so many validation images (a seeded subset). None: all."""

    def build(self, split: Split, cache: Path) -> ImageFolder:
        """Lists the files; nothing is decoded yet. Raises UserError naming folder and layout."""
        root, val_root = self._roots()
        found = _scan(root, self.labels)
        keep = torch.arange(len(found.files))
        if val_root is not None:
            if split == "val":
                root, found = val_root, _scan(val_root, self.labels).with_classes(found.classes)
                keep = torch.arange(len(found.files))
        else:
            keep = split_indices(len(keep), split, self.val_fraction, self.seed, f"folder {root}")
        count = self.train_count if split == "train" else self.val_count
        return found.take(
            seeded_subset(keep, count, self.seed),
            name=f"image_folder:{Path(self.folder).name}/{split}",
            mode=self.mode,
            captions=self.captions,
            cache=cache,
        )

    def _roots(self) -> tuple[Path, Path | None]:
        """The training folder, and the validation folder if there is one."""
        root = Path(self.folder).expanduser()
        if self.val_folder is not None:
            return root, Path(self.val_folder).expanduser()
        if (root / "train").is_dir() and (root / "val").is_dir():
            return root / "train", root / "val"
        return root, None


class _Found:
    """What a scan found: files sorted by name, and their classes."""

    def __init__(self, root: Path, files: list[Path], classes: list[str] | None):
        self.root, self.files, self.classes = root, files, classes

    def with_classes(self, classes: list[str] | None) -> "_Found":
        """The same files numbered by the training split's classes."""
        if (classes is None) != (self.classes is None):
            has, lacks = ("it", "the training folder") if self.classes else ("training", "it")
            raise UserError(
                f"validation folder {self.root} and the training folder are laid out differently: "
                f"{has} has class subfolders, {lacks} has none (labels=false ignores subfolders)"
            )
        strange = sorted(set(self.classes or []) - set(classes or []))
        if strange:
            raise UserError(
                f"validation folder {self.root} has classes that training lacks: "
                f"{', '.join(strange[:10])}. Training has: {', '.join((classes or [])[:20])}"
            )
        return _Found(self.root, self.files, classes)

    def take(
        self, keep: Tensor, *, name: str, mode: Mode, captions: bool, cache: Path
    ) -> ImageFolder:
        files = [self.files[index] for index in keep.tolist()]
        labels = None
        if self.classes is not None:
            number = {label: k for k, label in enumerate(self.classes)}
            labels = [number[path.relative_to(self.root).parts[0]] for path in files]
        return ImageFolder(
            self.root,
            files,
            labels,
            name=name,
            classes=self.classes,
            mode=mode,
            captions=captions,
            cache=cache,
        )


def _read_caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise CorruptSample(
            f"caption {path} is not there: each image needs its own, or set captions=false"
        ) from error
    except UnicodeDecodeError as error:
        raise CorruptSample(f"caption {path} is not UTF-8 ({error}): save it so") from error
    except OSError as error:
        raise CorruptSample(f"caption {path}: {error}") from error


def _scan(root: Path, labels: bool) -> _Found:
    """Image files under ``root`` in an order that is the same on every file system."""
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist (or is no folder)")
    files = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    files.sort(key=lambda path: path.relative_to(root).as_posix())
    if not files:
        raise UserError(
            f"image folder {root} holds no images ({', '.join(sorted(SUFFIXES))}); expected "
            f"{root}/CLASS/name.png for each class, or {root}/name.png without classes"
        )
    if not labels:
        return _Found(root, files, None)
    loose = [path for path in files if path.parent == root]
    if loose and len(loose) < len(files):
        nested = next(path for path in files if path.parent != root).relative_to(root)
        raise UserError(
            f"image folder {root} mixes loose images ({loose[0].name}) with class subfolders "
            f"({nested.parts[0]}/): put every image into a class folder, or set labels=false"
        )
    if loose:
        return _Found(root, files, None)
    return _Found(root, files, sorted({path.relative_to(root).parts[0] for path in files}))
