"""Images of chosen rows of a dataset, decoded ahead of the network that eats them."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentsmith.data.base import Dataset
from latentsmith.data.loader import Loader
from latentsmith.data.transforms import Transform
from latentsmith.errors import UserError
from latentsmith.training.task import Batch

READY = 2
"""Finished batches that wait; as many again are being decoded."""


@dataclass(frozen=True)
class Images:
    """What was read of the rows asked for.

    Attributes:
        rows: int64 [b], those that could be read, in the order asked.
        images: float32 [b, C, R, R] in [0, 1] on the device.
        labels: int64 [b], or None without classes.
        unreadable: row → reason of the others.
    """

    rows: Tensor
    images: Tensor
    labels: Tensor | None
    unreadable: dict[int, str]


class ImageRows:
    """Transformed images by row number.

    Args:
        dataset: raw samples.
        transform: without chance: a cached value belongs to an image, not to a crop of it.
        device: where images are wanted. CUDA: they are copied while the network is busy.
        unreadable_share: more unreadable samples than this share (but at least 16) are an error.

    Raises:
        UserError: a random transform.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        device: torch.device | str = "cpu",
        *,
        unreadable_share: float = 0.01,
    ):
        if not transform.deterministic:
            raise UserError(
                "a store holds one value per image, but the transform draws another crop or flip "
                "every time: set transform.crop=center and transform.flip=false (a flipped copy is "
                "the store's own flip=true)"
            )
        self.dataset, self.device = dataset, torch.device(device)
        self._loader = Loader(
            dataset,
            transform,
            batch_size=1,
            seed=0,
            corrupt_budget=max(16, int(unreadable_share * len(dataset))),
            prefetch=READY,
        )
        self._ahead: _Ahead | None = None
        self._expected: list[Tensor] = []
        self._held: Batch | None = None

    def plan(self, batches: Sequence[Tensor]) -> None:
        """Say which rows `read` will be asked for, in order, so that decoding runs ahead."""
        self.close()
        self._expected = list(reversed(batches))
        self._ahead = _Ahead(self._batches(batches))

    def read(self, rows: Tensor) -> Images:
        """The images of rows int64 [B].

        Raises:
            UserError: too many samples of the dataset cannot be read.
        """
        if not self._expected or not torch.equal(self._expected[-1], rows):
            self.plan([rows])
        self._expected.pop()
        assert self._ahead is not None
        batch = self._held if self._held is not None else self._ahead.next()
        self._held = None
        wanted = set(rows.tolist())
        if batch is not None and int(batch["index"][0]) not in wanted:
            self._held, batch = batch, None  # of the next batch: no row of this one was readable
        got = set() if batch is None else set(batch["index"].tolist())
        failed = {row: self._loader.corrupt[row] for row in sorted(wanted - got)}
        if batch is None:
            empty = torch.empty(0, dtype=torch.int64)
            return Images(empty, torch.empty(0), None, failed)
        labels = batch["label"] if self.dataset.classes is not None else None
        return Images(batch["index"], batch["image"], labels, failed)

    def _batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Runs in the thread that works ahead."""
        if self.device.type != "cuda":
            yield from self._loader.pick(batches)
            return
        stream = torch.cuda.Stream(self.device)
        for batch in self._loader.pick(batches):
            with torch.cuda.stream(stream):
                image = batch["image"].pin_memory().to(self.device, non_blocking=True)
            stream.synchronize()
            # the network's stream uses it, this one's allocator must not hand it out meanwhile
            image.record_stream(torch.cuda.default_stream(self.device))
            yield batch | {"image": image}

    def close(self) -> None:
        """Stop working ahead."""
        if self._ahead is not None:
            self._ahead.stop()
        self._ahead, self._expected, self._held = None, [], None


class _Ahead:
    """An iterator run by a thread, a few items ahead."""

    def __init__(self, items: Iterator[Batch]):
        self._queue: queue.Queue[Any] = queue.Queue(READY)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(items,), name="latentsmith-ahead", daemon=True
        )
        self._thread.start()

    def _work(self, items: Iterator[Batch]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:  # belongs to whoever asks for the next item
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def next(self) -> Batch | None:
        """The next item; None at the end, again and again."""
        item = self._queue.get()
        if item is None:
            self._stopped.set()
            self._queue.put(None)
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        """Ask the thread to end, and wait for it."""
        self._stopped.set()
        self._thread.join(timeout=60)
