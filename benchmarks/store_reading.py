"""Reading random rows of a feature store: ours, the sources' way, and what memory allows.

    python benchmarks/store_reading.py [--seconds 20] [--gigabytes 0.7] [--folder DIR] [--write]

Two kinds of records: 32 KiB (latents 4 x 64 x 64, float16) and 512 KiB (tokens 256 x 1024,
float16), batches of 128 random rows. The same values lie in memory, in a store of shards, and in
LMDB as the sources write it. Every reader's batches are first compared with those in memory.

Warm: all in the page cache. Readers take turns in one process, and the best of their turns is
given (with the median), so that other load falls on all alike. A turn is a number of batches in
the middle of a longer stream: before the clock processes and threads are started and buffers
touched, after it the stream goes on, so that nothing that was read ahead counts for free. Nobody
looks at the values: what is measured is what it takes to have them in a batch.

- `index_select in memory`: one gather into the same buffer again and again; the bare row gather.
- `memmove`: the same bytes from one place to another, in order; what memory allows.
- `sources' style`: LMDB with a transaction and a copy for each record, collated (DataLoader).

Cold: the files are dropped from the page cache before every turn. Prints markdown; writes it with
the numbers to benchmarks/results/store_reading.{md,json} when asked to.
"""

import argparse
import ctypes
import datetime
import itertools
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentsmith.stores.base import FeatureStore, FieldSpec, StoreManifest, open_store
from latentsmith.stores.build import build_store
from latentsmith.stores.joined import Joined, JoinedReader, Read
from latentsmith.stores.lmdb_env import read_only
from latentsmith.stores.ring import BatchRing
from latentsmith.utils.files import atomic_path, write_json

RESULTS = Path(__file__).parent / "results"
BATCH = 128
BEFORE, AFTER = 8, 6
"""Batches of a stream before and after those that are timed."""
SHAPES = {"32 KiB": (4, 64, 64), "512 KiB": (256, 1024)}
COLD_READS: tuple[Read, ...] = ("mmap", "pread", "auto")

Reader = Callable[[list[Tensor]], Iterator[Tensor]]
"""Rows of each batch → its values; a batch may be overwritten once the next is taken."""

ROWS: dict[str, Any] = {
    "memmove": None,
    "index_select in memory": None,
    "numpy.take in memory": None,
    "sources' style, 0 workers": None,
    "sources' style, 2 workers": None,
    "shards, ring, 0 threads": ("shards", 0),
    "shards, ring, 1 thread": ("shards", 1),
    "shards, ring, 2 threads": ("shards", 2),
    "LMDB, ring, 1 thread": ("lmdb", 1),
    "LMDB, ring, 2 threads": ("lmdb", 2),
}
GOALS = [  # (readers of which the best counts, readers of which the best is the measure, ratio)
    ("shards, ring", "sources' style", 5.0),
    ("shards, ring", "index_select in memory", 0.8),
    ("LMDB, ring", "sources' style", 3.0),
]


class SourcesStyle(Dataset[Tensor]):
    """A transaction, a copy and a tensor for each record."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape, self.pid = path, shape, 0
        self.env: Any = None

    def __getitem__(self, row: int) -> Tensor:
        if self.pid != os.getpid():
            self.env, self.pid = read_only(self.path), os.getpid()
        with self.env.begin() as txn:
            value = txn.get(str(row).encode())
        return torch.from_numpy(np.frombuffer(value, np.float16).reshape(self.shape).copy())


class Bench:
    """Stores of one kind of record, and their readers."""

    def __init__(self, folder: Path, shape: tuple[int, ...], count: int):
        self.shape, self.count, self.folder = shape, count, folder
        noise = torch.Generator().manual_seed(0)
        self.truth = torch.empty(count, *shape, dtype=torch.float16)
        for part in self.truth.split(256):
            part.copy_(torch.randn(part.shape, generator=noise))
        spec = {"latent": FieldSpec(shape, "float16")}
        manifest = StoreManifest("latents", spec, count, {}, {"digest": "noise"})
        keys = [str(row) for row in range(count)]
        self.stores: dict[str, FeatureStore] = {}
        for backend in ("shards", "lmdb"):
            path = folder / backend
            build_store(path, manifest, keys, self._compute, batch_size=256, backend=backend)
            self.stores[backend] = open_store(path)
        self.buffer = torch.zeros(BATCH, *shape, dtype=torch.float16)

    def _compute(self, rows: Tensor) -> tuple[dict[str, Tensor], dict[int, str]]:
        return {"latent": self.truth[rows]}, {}

    def batches(self, number: int, seed: int) -> list[Tensor]:
        """Rows of so many batches."""
        rng = torch.Generator().manual_seed(seed)
        return list(torch.randint(0, self.count, (number, BATCH), generator=rng))

    def memmove(self, plans: list[Tensor]) -> Iterator[Tensor]:
        """In order; not what was asked for."""
        size, at, end = self.buffer.nbytes, self.truth.data_ptr(), self.truth.nbytes
        for i in range(len(plans)):
            begin = i * size % (end - size + 1)
            ctypes.memmove(self.buffer.data_ptr(), at + begin, size)
            yield self.buffer

    def index_select(self, plans: list[Tensor]) -> Iterator[Tensor]:
        """The bare row gather."""
        for rows in plans:
            yield torch.index_select(self.truth, 0, rows, out=self.buffer)

    def take(self, plans: list[Tensor]) -> Iterator[Tensor]:
        """The bare row gather, by numpy."""
        truth, buffer = self.truth.numpy(), self.buffer.numpy()
        for rows in plans:
            np.take(truth, rows.numpy(), axis=0, out=buffer, mode="clip")
            yield self.buffer

    def sources(self, plans: list[Tensor], workers: int) -> Iterator[Tensor]:
        """As the sources read."""
        data = SourcesStyle(self.folder / "lmdb", self.shape)
        sampler = [rows.tolist() for rows in plans]
        yield from DataLoader(
            data, batch_sampler=sampler, num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )  # fmt: skip

    def ring(
        self, plans: list[Tensor], backend: str, threads: int, read: Read = "auto"
    ) -> Iterator[Tensor]:
        """As we read."""
        reader = JoinedReader(Joined(self.stores[backend]), read)
        with BatchRing(reader, plans, threads=threads) as ring:
            for batch in ring:
                yield batch["latent"]

    def reader(self, name: str) -> Reader:
        """By its name in the table."""
        own = {
            "memmove": self.memmove,
            "index_select in memory": self.index_select,
            "numpy.take in memory": self.take,
            "sources' style, 0 workers": lambda plans: self.sources(plans, 0),
            "sources' style, 2 workers": lambda plans: self.sources(plans, 2),
        }
        if name in own:
            return own[name]
        backend, threads = ROWS[name]
        return lambda plans: self.ring(plans, backend, threads)

    def check(self, name: str, reader: Reader) -> None:
        """Every byte of a few batches."""
        if name == "memmove":
            return
        plans = self.batches(7, seed=1)
        for rows, values in itertools.zip_longest(plans, reader(plans)):
            if not torch.equal(values.view(torch.int16), self.truth[rows].view(torch.int16)):
                raise SystemExit(f"{name} gives wrong values")

    def turn(self, name: str, number: int, seed: int) -> float:
        """Samples per second over so many batches, amid a longer stream."""
        stream = self.reader(name)(self.batches(BEFORE + number + AFTER, seed))
        for _ in range(BEFORE):
            next(stream)
        start = time.perf_counter()
        for _ in range(number):
            next(stream)
        took = time.perf_counter() - start
        cast(Generator[Tensor], stream).close()
        return number * BATCH / took

    def warm(self, seconds: float) -> dict[str, dict[str, float]]:
        """reader → best and median samples per second."""
        for name in ROWS:
            self.check(name, self.reader(name))
        batch = self.truth[0].nbytes * BATCH
        number = {n: max(8, int((0.1e9 if "sources" in n else 0.3e9) / batch)) for n in ROWS}
        turns: dict[str, list[float]] = {name: [] for name in ROWS}
        until, seed = time.perf_counter() + seconds, 0
        while time.perf_counter() < until or seed < 3:
            seed += 1
            for name, speeds in turns.items():
                speeds.append(self.turn(name, number[name], seed))
        return {n: {"best": max(s), "median": statistics.median(s)} for n, s in turns.items()}

    def drop(self) -> None:
        """The shards from the page cache: none may be mapped, and all must be on the disk."""
        self.stores["shards"].close()
        for file in sorted((self.folder / "shards").glob("shard-*.safetensors")):
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def cold(self, rounds: int) -> dict[str, dict[str, float]]:
        """how → best and median samples per second, nothing in memory at first."""
        number = max(2, int(0.1e9 / self.truth[0].nbytes / BATCH))
        turns: dict[str, list[float]] = {read: [] for read in COLD_READS}
        for seed in range(rounds):
            plans = self.batches(number, seed + 100)
            for read in COLD_READS:
                self.drop()
                start = time.perf_counter()
                for rows, values in zip(plans, self.ring(plans, "shards", 2, read), strict=True):
                    if not torch.equal(values[0], self.truth[rows[0]]):
                        raise SystemExit(f"read={read} gives wrong values")
                turns[read].append(number * BATCH / (time.perf_counter() - start))
        return {n: {"best": max(s), "median": statistics.median(s)} for n, s in turns.items()}


def best_of(warm: dict[str, dict[str, float]], prefix: str) -> float:
    """Of the readers whose names begin so."""
    return max(v["best"] for name, v in warm.items() if name.startswith(prefix))


def markdown(result: dict[str, Any]) -> str:
    """Tables of a result."""
    text = (
        "# Reading stores\n\n"
        f"Random rows in batches of {BATCH}, {result['machine']}, torch {result['torch']}, one "
        f"thread but those named, {result['date']}; load average {result['load'][0]:.1f} at the "
        "end.\nMade by `python benchmarks/store_reading.py --write`, which says how.\n"
    )
    for size, part in result["sizes"].items():
        row = part["row_bytes"]
        text += f"\n## Records of {size}, {part['count']:,} of them\n\n"
        text += "| warm | samples/s, best turn | GB/s | median |\n|---|---|---|---|\n"
        for name, v in part["warm"].items():
            text += f"| {name} | {v['best']:,.0f} | {v['best'] * row / 1e9:.1f} "
            text += f"| {v['median']:,.0f} |\n"
        text += "\n| goal | ratio | wanted |\n|---|---|---|\n"
        for ours, theirs, wanted in GOALS:
            ratio = best_of(part["warm"], ours) / best_of(part["warm"], theirs)
            text += f"| {ours} / {theirs} | {ratio:.2f} | {wanted} |\n"
        text += (
            "\n| cold: shards, ring | samples/s, best turn | MB/s | median |\n|---|---|---|---|\n"
        )
        for name, v in part["cold"].items():
            text += f"| read={name} | {v['best']:,.0f} | {v['best'] * row / 1e6:.0f} "
            text += f"| {v['median']:,.0f} |\n"
    return text


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="of warm turns, for each size")
    parser.add_argument("--cold-rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=0.7, help="of each copy of the values")
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--write", action="store_true", help="keep the result")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = parse()
    torch.set_num_threads(1)
    sizes: dict[str, Any] = {}
    for size in args.sizes:
        shape = SHAPES[size]
        row = 2 * int(np.prod(shape))
        folder = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            bench = Bench(folder, shape, int(args.gigabytes * 1e9 / row))
            warm = bench.warm(args.seconds)
            cold = bench.cold(args.cold_rounds)
            sizes[size] = {"row_bytes": row, "count": bench.count, "warm": warm, "cold": cold}
        finally:
            shutil.rmtree(folder)
    result = {
        "machine": f"{os.cpu_count()} cores {platform.machine()}",
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": os.getloadavg(),
        "sizes": sizes,
    }
    text = markdown(result)
    print(text)
    if args.write:
        write_json(RESULTS / "store_reading.json", result)
        with atomic_path(RESULTS / "store_reading.md") as tmp:
            tmp.write_text(text)


if __name__ == "__main__":
    main()
