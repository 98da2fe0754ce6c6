"""Writers of small stores, to be killed; and the campaigns that kill them."""

import json
import random
import shutil
import time
from pathlib import Path

import torch

from faults.figures import Figures
from helpers.nursery import Nursery
from helpers.stores import computing, keys_of, manifest_of, table
from latentsmith.stores import lmdb_writer
from latentsmith.stores.base import open_store
from latentsmith.stores.build import Backend, build_store
from latentsmith.stores.layout import committed
from latentsmith.stores.lmdb import chunk_key
from latentsmith.stores.verify import verify_store

COUNT, FEW, PER = 24, 8, 4
"""Rows of a store, of one of few shards, and of a shard."""
UNREADABLE = {7: "broken"}


# ---- in the child -------------------------------------------------------------------------------


def fill(
    path: str,
    log: str,
    backend: Backend,
    count: int,
    number: int | None,
    pause: float,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Write the store, or go on with it; computed rows are logged first.

    Args:
        number: die at this step. None: at none, and the steps are counted into ``log``.steps.
        pause: seconds that every batch takes longer.
    """
    from helpers import steps

    known = table(count)
    good = computing(known, UNREADABLE)

    def compute(rows):
        with Path(log).open("a") as file:
            file.write(" ".join(map(str, rows.tolist())) + "\n")
        time.sleep(pause)
        return good(rows)

    taken = steps.die_at(path, number)
    if backend == "lmdb":
        steps.around(lmdb_writer.LmdbWriter, "_put")
    assert build_store(
        path, manifest_of(known), keys_of(count), compute, batch_size=2, rows_per_shard=PER,
        backend=backend, progress=lambda *_: None, rank=rank, world_size=ranks,
    )  # fmt: skip
    Path(log + ".steps").write_text(json.dumps(taken()))


# ---- in the parent ------------------------------------------------------------------------------


class Store:
    """A store that children write, seen from outside."""

    def __init__(self, nursery: Nursery, folder: Path, backend: Backend, count: int):
        folder.mkdir(parents=True)
        self.nursery, self.path, self.backend = nursery, folder / "store", backend
        self.count = count
        self.log = folder / "log"
        self.log.touch()
        self.figures = Figures()

    def go(
        self, number: int | None = None, kill_after: float | None = None, pause: float = 0.0
    ) -> bool:
        """One writer; gives whether it came to its end, and counts how the store fared."""
        safe, begun = self.safe(), self._lines()
        where = [str(self.path), str(self.log), self.backend, self.count]
        child = self.nursery.start("faults.writing:fill", *where, number, pause)
        if kill_after is not None:
            time.sleep(kill_after)
            child.kill()
        code = child.wait()
        assert code in (0, -9), self.nursery.said()
        lost = safe - self.safe()
        again = {row for line in self._lines()[len(begun) :] for row in line} & safe
        hit = code == -9
        self.figures += Figures(hit, hit and not lost and not again, len(lost), len(again))
        return code == 0

    def check_end(self) -> None:
        """Raises AssertionError unless every value is there, once, and nothing else."""
        assert verify_store(self.path).ok, verify_store(self.path).problems
        store, kept = open_store(self.path), [r for r in range(self.count) if r not in UNREADABLE]
        assert dict(store.unreadable) == UNREADABLE and list(store.keys) == keys_of(self.count)
        rows = torch.tensor(kept)
        for name, (values, _) in table(self.count).items():
            wanted = values[rows].to(store.manifest.fields[name].dtype)
            assert torch.equal(store.gather(rows)[name], wanted)
        store.close()
        left = [p.name for p in self.path.iterdir() if p.name.startswith(".")]
        assert not left, f"killed writers left {left}"
        self.figures.finished += 1

    def safe(self) -> set[int]:
        """Rows that a reader of the disk would call safe."""
        shards = range(self.count // PER)
        if self.backend == "shards":
            done = [s for s in shards if committed(self.path, s) is not None]
        else:
            done = _chunks(self.path, shards)
        return {row for shard in done for row in range(shard * PER, (shard + 1) * PER)}

    def _lines(self) -> list[list[int]]:
        return [[int(x) for x in line.split()] for line in self.log.read_text().splitlines()]


def _chunks(path: Path, shards: range) -> list[int]:
    """Looked at in a copy: this process may not hold the file while a child writes."""
    import lmdb

    if not (path / "data.mdb").exists():
        return []
    copy = path.parent / "copy.mdb"
    shutil.copy(path / "data.mdb", copy)
    try:
        with (
            lmdb.open(str(copy), subdir=False, readonly=True, lock=False) as env,
            env.begin() as txn,
        ):
            return [s for s in shards if txn.get(chunk_key(s)) is not None]
    except lmdb.Error:  # killed while the file was made
        return []


def unharmed(nursery: Nursery, folder: Path, backend: Backend, count: int) -> tuple[int, float]:
    """How many steps writing takes, and how many seconds."""
    store = Store(nursery, folder, backend, count)
    began = time.monotonic()
    assert store.go()
    seconds = time.monotonic() - began
    store.check_end()
    return json.loads(Path(f"{store.log}.steps").read_text()), seconds


def kill_at_every_step(
    nursery: Nursery, folder: Path, backend: Backend, *, every: int = 1
) -> Figures:
    """A small store for every step there is (or every so many); killed there, then finished."""
    total, _ = unharmed(nursery, folder / "whole", backend, FEW)
    figures = Figures()
    for number in range(1, total + 1, every):
        store = Store(nursery, folder / f"step-{number}", backend, FEW)
        assert not store.go(number), f"writing has no step {number}"
        assert store.go(), "a second writer comes to the end"
        store.check_end()
        figures += store.figures
        shutil.rmtree(store.path.parent)
    return figures


def kill_at_random(
    nursery: Nursery, folder: Path, backend: Backend, *, instants: int, seed: int = 0
) -> Figures:
    """Kill writers by the clock until so many have been hit, each store again and again until it
    is finished."""
    rng, pause = random.Random(seed), 0.004
    _, seconds = unharmed(nursery, folder / "whole", backend, COUNT)
    seconds += pause * COUNT / 2
    figures, number = Figures(), 0
    while figures.tried < instants:
        store = Store(nursery, folder / f"store-{number}", backend, COUNT)
        number += 1
        while figures.tried + store.figures.tried < instants:
            if store.go(kill_after=rng.uniform(0, 0.6 * seconds), pause=pause):
                break
        assert store.go(), "the last writer comes to the end"
        store.check_end()
        figures += store.figures
        shutil.rmtree(store.path.parent)
    return figures
