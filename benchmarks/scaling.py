"""What breaks first at 10^6, 10^8 and 10^9 images: the layout of the stores, and the planner.

    python benchmarks/scaling.py [--write]

Nothing of that size is written. Bytes and files come from the layout's own functions
(`latentsmith.planning.stores`, which tests hold to written stores), memory of names and of the
order from a million of them measured here, GPU time from the planner's counts of one step.
"""

import argparse
import platform
import time
import tracemalloc
from pathlib import Path

import torch

from latentsmith.config.compose import compose
from latentsmith.planning.count import count_pass, count_step
from latentsmith.planning.devices import GPUS
from latentsmith.planning.stores import store_size
from latentsmith.planning.table import bytes_text, seconds_text
from latentsmith.stores.base import FieldSpec
from latentsmith.stores.keys import KeyTable

COUNTS = (10**6, 10**8, 10**9)
MILLION = 10**6
UTILIZATION = 0.4
STORES = {
    "latents, mode 4x32x32": {"latent": FieldSpec((4, 32, 32), "float16")},
    "latents, moments 4x64x64": {n: FieldSpec((4, 64, 64), "float16") for n in ("mean", "logvar")},
    "DINOv2-L tokens 256x1024": {"tokens": FieldSpec((256, 1024), "float16")},
    "the same in int8, 8x8 grid": {"tokens": FieldSpec((64, 1024), "int8")},
}
POINTS, WIDTH = 4096, 2048
"""Points of the latent card, and width of Inception's features."""


def stores(n: int) -> list[list[str]]:
    """Rows of the first table."""
    rows = []
    for name, fields in STORES.items():
        size = store_size(fields, n, key_bytes=len(str(n)))
        rows.append([
            f"10^{len(str(n)) - 1}", name, bytes_text(size.total), bytes_text(size.lmdb),
            f"{size.files:,}", bytes_text(size.keys), bytes_text(size.index),
        ])  # fmt: skip
    return rows


def names_cost() -> float:
    """Most bytes of Python objects a name takes while a table of a million is made."""
    tracemalloc.start()
    KeyTable.of(str(i) for i in range(MILLION))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MILLION


def order_cost() -> float:
    """Seconds a number of an epoch's permutation takes, of ten million."""
    began = time.perf_counter()
    torch.randperm(10 * MILLION, generator=torch.Generator().manual_seed(0))
    return (time.perf_counter() - began) / (10 * MILLION)


def memory(name_bytes: float, order_seconds: float) -> list[list[str]]:
    """Rows of the second table."""
    rows = [
        ("names, while a store is begun", "a process", lambda n: name_bytes * n),
        ("names, in a store that is read (mapped)", "a machine", lambda n: n * (24 + len(str(n)))),
        ("order: permutations of four epochs, which are kept", "a process", lambda n: 4 * 8 * n),
        ("all distances between pairs, float32", "a process", lambda n: 4 * n * n),
        (f"distances of {POINTS:,} points, as the card takes", "a process",
         lambda n: 4 * POINTS**2),
        (f"features of all images, width {WIDTH:,} (PRDC, KID)", "a process",
         lambda n: 4 * n * WIDTH),
        ("sums for a Fréchet distance, float64", "a process", lambda n: 8 * WIDTH * (WIDTH + 1)),
    ]  # fmt: skip
    found = [[what, whose, *(bytes_text(cost(n)) for n in COUNTS)] for what, whose, cost in rows]
    times = [seconds_text(order_seconds * n) for n in COUNTS]
    return [*found, ["a permutation's time, once an epoch", "a process", *times]]


def gpu() -> list[list[str]]:
    """Rows of the third table: one pass over the images, on 8 and on 64 H100."""
    device = GPUS["H100"]
    plan = compose("urepa", ["scale=paper"]).plan()
    works = {f"cache {p.name}": (count_pass(p).flops, "fp32") for p in plan.passes}
    for recipe, name in (("mmreg", "generator"), ("urepa", "aligned")):
        stages = compose(recipe, ["scale=paper"]).plan().trainings
        stage = next(s for s in stages if s.name == name)
        works[f"train {recipe}'s {name}"] = count_step(stage, [8]).flops, stage.train.precision
    rows = []
    for name, (flops, precision) in works.items():
        seconds = flops / (device.peak(precision) * UTILIZATION)
        cells = [seconds_text(seconds * n / gpus) for n in COUNTS for gpus in (8, 64)]
        rows.append([name, f"{flops / 1e9:,.0f}", precision, *cells])
    return rows


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results")
    args = parser.parse_args()
    powers = [f"10^{len(str(n)) - 1}" for n in COUNTS]
    parts = [
        table(
            ["images", "store", "shards", "LMDB", "files", "names", "JSON"],
            [row for n in COUNTS for row in stores(n)],
        ),
        table(["memory", "of", *powers], memory(names_cost(), order_cost())),
        table(
            ["once over all images", "GFLOP each", "precision",
             *(f"{p}, {g} H100" for p in powers for g in (8, 64))],
            gpu(),
        ),
    ]  # fmt: skip
    text = "\n".join(parts)
    print(text, end="")
    if args.write:
        head = (
            f"# Stores, memory and time at scale\n\ntorch {torch.__version__}, "
            f"{platform.machine()}, {UTILIZATION:.0%} of the GPU's peak. Made by `python "
            "benchmarks/scaling.py --write`, which says how.\n\n"
        )
        results = Path(__file__).parent / "results"
        (results / "scaling.md").write_text(head + text)


if __name__ == "__main__":
    main()
