"""Batches in memory that is used again and again, filled ahead by threads.

What makes reading a feature store slow is neither its format nor the disk (once it is cached) but
fresh memory: the system hands out a batch of 4 to 64 MiB page by page, each zeroed on first touch,
and takes it back afterwards. Reading the same rows into memory that was touched before is 5 to 9
times as fast (research note E, section 2.1). Worker processes add a shared-memory segment per
batch and a queue, and are slower still. Threads are enough: copying rows lets go of the interpreter
lock.
"""

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentsmith.stores.base import FieldSpec
from latentsmith.stores.layout import numel

DEPTH, THREADS = 4, 2


class Filler(Protocol):
    """What a ring reads from.

    Attributes:
        fields: of a batch, name → shape and dtype of a row.
    """

    @property
    def fields(self) -> Mapping[str, FieldSpec]: ...

    def fill(self, rows: Tensor, out: dict[str, Tensor]) -> None:
        """Write rows int64 [b] of every field into ``out`` [b, …]; called by several threads."""
        ...

    def close(self) -> None:
        """The ring is done."""
        ...


class BatchRing:
    """Batches ``{"index": rows int64 [b], field: [b, …], …}``, in the order of ``plans``.

    A batch stays what it is for as long as anybody holds it or a view of it. Its memory is used for
    a later batch once it is let go; in a loop that is when the next one is taken, and ``depth``
    buffers serve for ever. Whoever keeps more batches than that makes the ring allocate new
    buffers: slower, never wrong.

    Args:
        filler: where rows come from.
        plans: rows of each batch, int64 [b]; may be endless. Looked at in the caller's thread.
        depth: buffers of each field, at least 3: the batch in hand, the one about to be taken, and
            ``depth - 2`` being filled.
        threads: that fill them. 0: batches are filled when they are asked for, and two buffers
            do.
        pin: page-locked memory, which CUDA copies from without waiting; default where there is
            CUDA. A buffer is filled again only after the copies that were queued before the next
            batch was taken, on the current stream of the device that is current then.
        copy: every batch in memory of its own. Only for code that keeps an address without keeping
            the tensor.

    Attributes:
        allocated: buffers made so far, of all fields.

    An exception while filling is raised where the batch would have come, and the ring is closed.
    """

    def __init__(
        self,
        filler: Filler,
        plans: Iterable[Tensor],
        *,
        depth: int = DEPTH,
        threads: int = THREADS,
        pin: bool | None = None,
        copy: bool = False,
    ):
        if depth < 3 or threads < 0:
            raise ValueError(f"a ring needs depth >= 3 and threads >= 0: {depth}, {threads}")
        self.filler, self.copy = filler, copy
        self.pin = torch.cuda.is_available() if pin is None else pin
        self.allocated = 0
        self._plans: Iterator[Tensor] = iter(plans)
        self._slots = [_Slot(self.pin) for _ in range(depth if threads else 2)]
        self._turn = 0
        self._ahead: deque[tuple[_Work, dict[str, Tensor]]] = deque()
        self._most = depth - 2 if threads else 0
        self._threads = _Threads(min(threads, self._most)) if threads else None
        self._closed = False

    def __iter__(self) -> "BatchRing":
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self._closed:
            raise StopIteration
        try:
            while len(self._ahead) <= self._most and (plan := next(self._plans, None)) is not None:
                self._begin(plan)
            if self._ahead:
                work, batch = self._ahead.popleft()
                work.wait()
                return batch
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def _begin(self, rows: Tensor) -> None:
        """Lend the next slot to a batch and have it filled."""
        slot, self._turn = self._slots[self._turn], (self._turn + 1) % len(self._slots)
        if self.copy:
            slot.forget()
        wait = slot.fence()
        batch = {"index": rows, **slot.lend(self.filler.fields, len(rows))}
        self.allocated += slot.fresh
        work = _Work(self.filler, batch, wait)
        self._ahead.append((work, batch))
        if self._threads is None:
            work.do()
        else:
            self._threads.give(work)

    def close(self) -> None:
        """Stop; when this returns no thread is left. Batches that were taken stay valid."""
        if self._closed:
            return
        self._closed = True
        if self._threads is not None:
            self._threads.stop()
        self._ahead.clear()
        self._slots.clear()
        self.filler.close()

    def __enter__(self) -> "BatchRing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Slot:
    """Memory for one batch."""

    def __init__(self, pin: bool):
        self.pin, self.fresh = pin, 0
        self._memory: dict[str, np.ndarray] = {}
        self._lease: dict[str, weakref.ref[np.ndarray]] = {}

    def forget(self) -> None:
        """Do not use this memory again."""
        self._memory.clear()

    def fence(self) -> Any:
        """What must be waited for before the memory is written again: an event after all that the
        device has queued up to now, None where nothing can be."""
        if not (self.pin and self._memory):
            return None
        event = new_event()
        event.record()
        return event

    def lend(self, fields: Mapping[str, FieldSpec], count: int) -> dict[str, Tensor]:
        """A tensor [count, …] for each field, in memory nobody else holds."""
        self.fresh = 0
        return {name: self._tensor(name, spec, count) for name, spec in fields.items()}

    def _tensor(self, name: str, spec: FieldSpec, count: int) -> Tensor:
        size = count * numel(spec.shape) * spec.dtype.itemsize
        lease = self._lease.get(name)
        held = lease is not None and lease() is not None
        if held or name not in self._memory or self._memory[name].nbytes < size:
            self._memory[name] = _allocate(size, self.pin)
            self.fresh += 1
        # All tensors over `view` keep it alive, so that it is gone when the last of them is.
        view = self._memory[name][:size]
        self._lease[name] = weakref.ref(view)
        return torch.from_numpy(view).view(spec.dtype).view(count, *spec.shape)


def new_event() -> Any:
    """An event of the current CUDA device."""
    return torch.cuda.Event()


def _allocate(size: int, pin: bool) -> np.ndarray:
    return torch.empty(size, dtype=torch.uint8, pin_memory=pin).numpy()


class _Work:
    """A batch to be filled. Handed over by a plain queue and a lock, not by `concurrent.futures`,
    whose own work under the interpreter lock cost batches of 4 MiB a tenth of their speed.

    Args:
        fence: to be waited for before its memory is written.
    """

    def __init__(self, filler: Filler, batch: dict[str, Tensor], fence: Any):
        self._todo: tuple[Filler, dict[str, Tensor], Any] | None = (filler, batch, fence)
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def do(self) -> None:
        """Fill it; `wait` raises what goes wrong."""
        assert self._todo is not None
        (filler, batch, fence), self._todo = self._todo, None  # else its memory would seem held
        try:
            if fence is not None:
                fence.synchronize()
            filler.fill(batch["index"], {name: batch[name] for name in filler.fields})
        except BaseException as error:
            self._error = error
        finally:
            del batch
            self._done.release()

    def wait(self) -> None:
        """Until it is filled."""
        self._done.acquire()
        if self._error is not None:
            raise self._error


class _Threads:
    """Threads that do what they are given, in which torch does not start threads of its own:
    OpenMP's wait for each other by spinning, and gathering on a busy machine became 20 times
    slower."""

    def __init__(self, count: int):
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        own = torch.get_num_threads()
        started = threading.Barrier(count + 1)
        self._threads = [
            threading.Thread(
                target=_serve, args=(self._queue, started), name="latentsmith-ring", daemon=True
            )
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()
        started.wait()
        torch.set_num_threads(own)  # the threads' 1 has become the default of those started later
        self._forgotten = weakref.finalize(self, _end, self._queue, count)

    def give(self, work: _Work) -> None:
        """Have it done, after what was given before."""
        self._queue.put(work)

    def stop(self) -> None:
        """Drop what has not begun; return when no thread is left."""
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
        self._forgotten()
        for thread in self._threads:
            thread.join()


def _end(queue: "SimpleQueue[_Work | None]", count: int) -> None:
    for _ in range(count):
        queue.put(None)


def _serve(queue: "SimpleQueue[_Work | None]", started: threading.Barrier) -> None:
    _alone()
    started.wait()
    while (work := queue.get()) is not None:
        work.do()
        del work


def _alone() -> None:
    torch.get_num_threads()  # a thread's first question sets its number to the common default
    torch.set_num_threads(1)
