"""A resized copy of a dataset as one ZIP of images and one CSV of samples for each split.

train.zip              the images, stored as they are, ID.jpg or ID.png
train.csv              sample_id, class_id, class_name, split, caption; width and height before
train.unreadable.csv   sample_id and reason of what could not be read, if anything
train.json             what it was made from, and how
classes.csv            class_id and class_name of all classes

The same for val. `latentsmith.data.zip_csv` reads them.
"""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from latentsmith.data.balance import balanced_part
from latentsmith.data.base import CorruptSample, Dataset, Split
from latentsmith.data.edited import warn_left_out
from latentsmith.data.prepare import Prepared, save_image, state
from latentsmith.data.sample_ids import sample_ids
from latentsmith.data.subset import subset
from latentsmith.data.transforms import TransformConfig
from latentsmith.data.zip_csv import lists
from latentsmith.data.zip_csv.config import CLASSES
from latentsmith.data.zip_csv.growing import GrowingZip, Note, journal_file
from latentsmith.errors import UserError
from latentsmith.utils.counter import Counter
from latentsmith.utils.files import full_disk_is_told, remove_abandoned, require_free
from latentsmith.utils.lock import Lock

LOCK = ".prepare.lock"
COMMIT_SAMPLES, COMMIT_BYTES = 256, 64 << 20
"""What is committed at once, whichever is reached first: all that a kill can cost."""

ROW_BYTES = 400
"""About what a sample takes besides its image: in the directory, the CSV and the journal."""

FULL_DISK = "free some and run the same command again: it goes on where it stopped"

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ZipSettings:
    """How to prepare.

    Attributes:
        transform: from raw images to square ones.
        image: how they are encoded: JPEG at quality 95 or PNG.
        count: use at most so many training samples, see `latentsmith.data.balance.balanced`.
        seed: of that choice.
        max_bad: share of a split's samples that may be unreadable; above it is an error.
    """

    transform: TransformConfig
    image: Literal["jpg", "png"] = "jpg"
    count: int | None = None
    seed: int = 0
    max_bad: float = 0.01


def prepare_zip(
    datasets: Mapping[Split, Dataset], settings: ZipSettings, folder: Path
) -> dict[Split, Prepared]:
    """Write each split's ZIP and CSV, or go on where an earlier call was killed.

    The bytes do not depend on when or whether it was interrupted. Of edits only the images before
    are written.

    Raises:
        UserError: the folder holds something else, or a copy of other data or with other settings
            (both sides are named); too many unreadable images; another process writes there; the
            disk is full, or will be.
    """
    _refuse_strangers(folder)  # before a lock is put there
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock.take(folder / LOCK)
    try:
        with full_disk_is_told(folder, FULL_DISK):
            ids = sample_ids(datasets)
            jobs = [_Job(s, data, ids[s], settings, folder) for s, data in datasets.items()]
            for job in jobs:  # all of them first: nothing is written when any is refused
                job.state()
            for data in datasets.values():
                warn_left_out(data)
            classes = next(iter(datasets.values())).classes
            if classes is not None and not (folder / CLASSES).is_file():
                lists.write_classes(folder / CLASSES, classes)
            return {job.split: job.run() for job in jobs}
    finally:
        lock.release()


def _refuse_strangers(folder: Path) -> None:
    """A folder with files must have been begun by us."""
    # hidden ones do not count: the lock, and what a kill left of a file that was being written
    found = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if found and not any((folder / f"{split}.json").is_file() for split in ("train", "val")):
        raise UserError(
            f"{folder} is not empty and was not written by 'latentsmith data prepare --format zip'"
        )


class _Job:
    """One split."""

    def __init__(
        self, split: Split, dataset: Dataset, ids: list[str], settings: ZipSettings, folder: Path
    ):
        self.split: Split = split
        self.settings, self.folder = settings, folder
        self.transform = settings.transform.deterministic().build()
        self.note = {
            "dataset": dataset.name,
            "digest": dataset.digest,
            "transform": self.transform.fingerprint(),
            "format": f"zip of {settings.image}",
        }
        if split == "train" and settings.count is not None:
            self.note |= {"count": settings.count, "seed": settings.seed}
            keep = balanced_part(dataset, settings.count, settings.seed)
            dataset, ids = subset(dataset, keep), [ids[k] for k in keep.tolist()]
        self.dataset, self.ids = dataset, ids
        self.archive, self.manifest = folder / f"{split}.zip", folder / f"{split}.csv"
        self.unreadable = folder / f"{split}.unreadable.csv"

    def state(self) -> None:
        """State what will be written, or find that it was stated before."""
        note = {"count": None, "seed": None} | self.note  # so that all of a subset is refused too
        file = self.folder / f"{self.split}.json"
        state(file, note, f"{self.folder} holds a copy of {self.split} images")
        remove_abandoned(self.folder, {self.manifest.name, self.unreadable.name, file.name})

    def run(self) -> Prepared:
        """Write what is missing."""
        if self.archive.exists():
            journal_file(self.archive).unlink(missing_ok=True)  # killed just before it was removed
            bad = lists.read_unreadable(self.unreadable)
            self._check_share(bad)
            return self._prepared(0, bad)
        with GrowingZip(self.archive) as growing:
            bad = _unreadable(growing.notes())
            self._check_share(bad)
            kept = growing.count - len(bad)
            self._fill(growing, bad)
            lists.write_samples(self.manifest, growing.notes(), self.split, self.dataset.classes)
            lists.write_unreadable(self.unreadable, bad)
            growing.finish()
        return self._prepared(len(self.dataset) - kept - len(bad), bad)

    def _prepared(self, written: int, bad: list[Note]) -> Prepared:
        reasons = [f"{note['id']}: {note['reason']}" for note in bad]
        return Prepared(written, len(self.dataset) - len(bad) - written, reasons)

    def _fill(self, growing: GrowingZip, bad: list[Note]) -> None:
        """Encode and commit what is missing; unreadable samples are added to ``bad``."""
        total = len(self.dataset)
        if growing.count:
            self._check_room(growing)
        with (
            Counter(f"writing {self.archive.name}", total) as tell,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ):
            encoded = _ahead(pool, self._encode, range(growing.count, total))
            for notes, contents in _batches(encoded):
                growing.append(notes, contents)
                bad += _unreadable(notes)
                self._check_share(bad)
                self._check_room(growing)
                tell(growing.count)

    def _encode(self, index: int) -> tuple[Note, bytes | None]:
        """One sample (in a thread): what is known of it, and its image unless unreadable."""
        name = self.ids[index]
        try:
            sample = self.dataset[index]
        except CorruptSample as error:
            return {"id": name, "reason": str(error)}, None
        height, width = sample["image"].shape[-2:]
        note: Note = {"id": name, "name": f"{name}.{self.settings.image}"}
        if self.dataset.classes is not None:
            note["label"] = int(sample["label"])
        if "caption" in sample:
            note["caption"] = sample["caption"]
        target = io.BytesIO()
        save_image(sample["image"], self.transform, target, self.settings.image)
        return note | {"width": width, "height": height}, target.getvalue()

    def _check_room(self, growing: GrowingZip) -> None:
        """The rest must fit, if it is like what is there."""
        left = len(self.dataset) - growing.count
        one = growing.size / growing.count + ROW_BYTES
        what = f"for {left:,} more images of about {one / 1e3:,.1f} kB"
        require_free(self.folder, int(left * one), what, "or go on in a copy on another disk")

    def _check_share(self, bad: Sequence[Note]) -> None:
        """List the unreadable samples and raise UserError when they are more than may be."""
        if len(bad) <= self.settings.max_bad * len(self.dataset):
            return
        lists.write_unreadable(self.unreadable, bad)
        shown = "".join(f"\n  {note['id']}: {note['reason']}" for note in bad[:20])
        more = f"\n  … and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise UserError(
            f"{len(bad)} of {len(self.dataset)} images of {self.dataset.name} cannot be read, "
            f"above the share of {self.settings.max_bad:g} that --max-bad allows. With a larger "
            "one the same command goes on; for repaired images choose another folder. "
            f"{self.unreadable} lists them:{shown}{more}"
        )


def _unreadable(notes: Iterable[Note]) -> list[Note]:
    return [note for note in notes if "reason" in note]


def _batches(
    encoded: Iterable[tuple[Note, bytes | None]],
) -> Iterator[tuple[list[Note], list[bytes | None]]]:
    """What is committed at once."""
    notes: list[Note] = []
    contents: list[bytes | None] = []
    size = 0
    for note, content in encoded:
        notes.append(note)
        contents.append(content)
        size += len(content or b"")
        if len(notes) >= COMMIT_SAMPLES or size >= COMMIT_BYTES:
            yield notes, contents
            notes, contents, size = [], [], 0
    if notes:
        yield notes, contents


def _ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``pool.map`` with a bounded number of results that wait: a million images do not fit."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 32:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
