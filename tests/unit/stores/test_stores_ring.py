"""The ring: right batches in the right order, whatever threads do, in memory that is reused."""

import gc
import random
import threading
import time
import weakref
from typing import ClassVar

import pytest
import torch

from latentsmith.errors import UserError
from latentsmith.stores import ring as rings
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.ring import BatchRing

FIELDS = {
    "half": FieldSpec((3, 2), "float16"),
    "brain": FieldSpec((5,), "bfloat16"),
    "label": FieldSpec((), "int64"),
}


class Fake:
    """Every number of row r is r; slower now and then."""

    fields = FIELDS

    def __init__(self, jitter: float = 0.0, fails_at: int | None = None):
        self.jitter, self.fails_at = jitter, fails_at
        self.closed = self.threads = 0
        self.seen: list[int] = []

    def fill(self, rows, out):
        if self.jitter:
            time.sleep(self.jitter * random.random())
        if self.fails_at is not None and self.fails_at in rows.tolist():
            raise UserError(f"row {self.fails_at} is broken")
        self.threads = max(self.threads, torch.get_num_threads())
        self.seen += rows.tolist()
        for name, spec in self.fields.items():
            out[name].copy_(rows.reshape(-1, *[1] * len(spec.shape)).expand_as(out[name]))

    def close(self):
        self.closed += 1


def plans(count: int, size: int = 4) -> list[torch.Tensor]:
    return [torch.arange(i * size, i * size + size) for i in range(count)]


def right(batch: dict, rows: torch.Tensor) -> bool:
    wanted = {n: rows.reshape(-1, *[1] * len(s.shape)).expand(-1, *s.shape).to(s.dtype)
              for n, s in FIELDS.items()}  # fmt: skip
    same = all(torch.equal(batch[n], v) and batch[n].dtype == v.dtype for n, v in wanted.items())
    return same and torch.equal(batch["index"], rows) and set(batch) == {"index", *FIELDS}


def ring_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("latentsmith-")]


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("depth", [3, 4, 6])
def test_batches_come_in_order_whatever_the_timing(threads, depth):
    filler = Fake(jitter=0.004)
    with BatchRing(filler, plans(12), depth=depth, threads=threads) as ring:
        taken = 0
        for rows, batch in zip(plans(12), ring, strict=True):
            assert right(batch, rows)
            taken += 1
    assert taken == 12 and filler.closed == 1 and not ring_threads()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("depth", [3, 5])
def test_memory_is_used_again(threads, depth):
    ring = BatchRing(Fake(jitter=0.001), plans(40), depth=depth, threads=threads)
    addresses = {name: set() for name in FIELDS}
    for batch in ring:
        for name in FIELDS:
            addresses[name].add(batch[name].data_ptr())
    wanted = depth if threads else 2
    assert {name: len(a) for name, a in addresses.items()} == dict.fromkeys(FIELDS, wanted)
    assert ring.allocated == wanted * len(FIELDS)


def test_a_batch_in_hand_is_not_overwritten_while_later_ones_are_filled():
    """Looked at after the threads have filled all they may."""
    ring = BatchRing(Fake(), plans(30), depth=4, threads=2)
    for rows, batch in zip(plans(30), ring, strict=True):
        time.sleep(0.002)
        assert right(batch, rows)
    assert ring.allocated == 4 * len(FIELDS)


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_that_are_kept_stay_what_they_are(threads):
    kept = list(BatchRing(Fake(jitter=0.001), plans(25), threads=threads))
    assert all(right(batch, rows) for batch, rows in zip(kept, plans(25), strict=True))


def test_a_view_keeps_its_memory_and_no_more():
    """A slice, a numpy view, or one field of a batch: only that field's buffer is replaced."""
    ring, views = BatchRing(Fake(), plans(20), threads=1), []
    for i, batch in enumerate(ring):
        if i == 3:
            views = [batch["half"][1:2, 0], batch["half"].view(torch.int16).numpy()[0]]
            wanted = [views[0].clone(), views[1].copy()]
    assert torch.equal(views[0], wanted[0]) and (views[1] == wanted[1]).all()
    assert ring.allocated == 4 * len(FIELDS) + 1


def test_a_gradient_keeps_the_batch():
    weight = torch.ones(3, 2, requires_grad=True)
    ring, total = BatchRing(Fake(), plans(12), threads=1), torch.zeros(())
    for batch in ring:
        total = total + (batch["half"].float() * weight).sum()
    total.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((3, 2), float(sum(range(48)))))


def test_copies_share_nothing():
    ring = BatchRing(Fake(), plans(20), threads=2, copy=True)
    for rows, batch in zip(plans(20), ring, strict=True):
        assert right(batch, rows)
    assert ring.allocated == 20 * len(FIELDS)


def test_batches_of_other_sizes():
    sizes = [4, 2, 4, 1, 6, 0, 3, 6, 6, 6, 2]
    cut = list(torch.arange(sum(sizes)).split(sizes))
    for rows, batch in zip(cut, BatchRing(Fake(), cut, threads=2), strict=True):
        assert right(batch, rows)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_exception_comes_where_the_batch_would_have(threads):
    filler = Fake(fails_at=21)
    ring = BatchRing(filler, plans(100), depth=5, threads=threads)
    taken = []
    with pytest.raises(UserError, match="row 21 is broken"):
        for batch in ring:
            taken.append(int(batch["index"][0]))
    assert taken == [0, 4, 8, 12, 16] and filler.closed == 1 and not ring_threads()
    assert next(ring, None) is None


def test_an_exception_of_the_plans_closes_the_ring():
    def broken():
        yield from plans(3)
        raise UserError("no more rows")

    filler = Fake()
    with pytest.raises(UserError, match="no more rows"):
        list(BatchRing(filler, broken(), threads=2))
    assert filler.closed == 1 and not ring_threads()


def test_closing_early_joins_the_threads_and_frees_the_memory():
    filler = Fake(jitter=0.01)
    ring = BatchRing(filler, iter(plans(10**5)), depth=6, threads=3)
    batch = next(ring)
    assert ring_threads()
    memory = weakref.ref(ring._slots[0]._memory["half"])
    ring.close()
    done = len(filler.seen)
    assert not ring_threads() and filler.closed == 1
    assert right(batch, plans(1)[0]), "what was taken stays valid"
    time.sleep(0.02)
    assert len(filler.seen) == done <= 6 * 4, "nothing is filled after closing"
    ring.close()
    del batch
    gc.collect()
    assert memory() is None and next(ring, None) is None and filler.closed == 1


def test_not_more_is_read_ahead_than_there_are_buffers_for():
    filler = Fake()
    with BatchRing(filler, iter(plans(1000)), depth=5, threads=2) as ring:
        next(ring)
        time.sleep(0.05)
        assert len(filler.seen) == 4 * 4, "the one that was taken, and depth - 2 ahead"


def test_threads_of_a_ring_use_one_thread_and_others_keep_theirs():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        filler, later = Fake(), []
        list(BatchRing(filler, plans(9), threads=2))
        assert filler.threads == 1 and torch.get_num_threads() == 2
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)


def test_bad_settings():
    for settings in [{"depth": 2}, {"threads": -1}]:
        with pytest.raises(ValueError, match="depth >= 3 and threads >= 0"):
            BatchRing(Fake(), [], **settings)


class Event:
    """Stands in for CUDA's: says when it was recorded and waited for."""

    log: ClassVar[list[tuple[str, int]]] = []
    count = 0

    def __init__(self):
        Event.count += 1
        self.number = Event.count

    def record(self):
        Event.log.append(("record", self.number))

    def synchronize(self):
        Event.log.append(("wait", self.number))


@pytest.mark.parametrize("threads", [0, 1])
def test_pinned_memory_is_filled_only_after_what_the_device_had_to_do(monkeypatch, threads):
    """By the code that runs on CUDA, with its two calls replaced."""
    pinned = []

    def allocate(size, pin):
        pinned.append(pin)
        return torch.empty(size, dtype=torch.uint8).numpy()

    Event.log, Event.count = [], 0
    monkeypatch.setattr(rings, "new_event", Event)
    monkeypatch.setattr(rings, "_allocate", allocate)
    filler = Fake()
    filler_fill = filler.fill

    def fill(rows, out):
        Event.log.append(("fill", int(rows[0]) // 4))
        filler_fill(rows, out)

    filler.fill = fill
    with BatchRing(filler, plans(9), depth=3, threads=threads, pin=True) as ring:
        for rows, batch in zip(plans(9), ring, strict=True):
            assert right(batch, rows)
    slots = 3 if threads else 2
    assert all(pinned) and len(pinned) == slots * len(FIELDS)
    before = Event.log[: Event.log.index(("fill", slots))]
    assert Event.count == 9 - slots, "the first batches lie in memory the device has not seen"
    assert before.index(("record", 1)) < before.index(("wait", 1))
    for number in range(1, 10 - slots):
        waited = Event.log.index(("wait", number))
        assert Event.log[waited + 1 :].index(("fill", slots - 1 + number)) >= 0


def test_without_cuda_memory_is_not_pinned(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(rings, "new_event", None)
    assert not BatchRing(Fake(), []).pin
    assert len(list(BatchRing(Fake(), plans(9)))) == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_copies_to_the_device_are_those_of_their_batch():
    """Copies are queued behind a slow kernel, so that a ring that did not wait would overwrite."""
    fields = {"big": FieldSpec((1 << 18,), "float32")}

    class Big(Fake):
        def fill(self, rows, out):
            out["big"].copy_(rows[:, None].expand_as(out["big"]))

    filler, found = Big(), []
    filler.fields = fields
    for batch in BatchRing(filler, plans(12), threads=2, pin=True):
        assert batch["big"].is_pinned()
        torch.cuda._sleep(20_000_000)
        found.append(batch["big"].to("cuda", non_blocking=True))
    for rows, values in zip(plans(12), found, strict=True):
        assert torch.equal(values.cpu(), rows[:, None].expand(4, 1 << 18).float())
