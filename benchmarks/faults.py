"""How many kills, damages and full disks nothing was lost by.

    python benchmarks/faults.py [--kills 50] [--seed 1] [--only writing training damage]

The campaigns of tests/faults at full length: writers of stores killed at every step there is and by
the clock, runs of two recipes killed at random steps and by the clock, files with a flipped bit or
a missing end. Every end that is reached is compared with one that nobody harmed, tensors bit for
bit. Prints a markdown table; writes it with the seeds to benchmarks/results/faults.{md,json}.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.damage import DAMAGES, damage_lmdb, damage_shards
from faults.figures import Figures
from faults.training import PREPARED, RECIPES, kill_training, unharmed
from faults.writing import kill_at_every_step, kill_at_random
from helpers.nursery import Nursery
from latentsmith.utils.files import atomic_path, write_json

RESULTS = Path(__file__).parent / "results"
PARTS = ("writing", "training", "damage")


def kills(nursery: Nursery, folder: Path, parts: list[str], count: int, seed: int):
    """(What was killed, how, figures) of each campaign."""
    if "writing" in parts:
        for backend in ("shards", "lmdb"):
            where = folder / backend
            yield (
                f"writing {backend}",
                "at every step",
                kill_at_every_step(nursery, where / "steps", backend),
            )
            yield (
                f"writing {backend}",
                "by the clock",
                kill_at_random(nursery, where / "clock", backend, instants=count, seed=seed),
            )
    if "training" in parts:
        for recipe in RECIPES:
            where = folder / recipe
            whole = unharmed(nursery, recipe, where / "whole")
            yield (
                f"run {recipe}",
                "steps and clock",
                kill_training(nursery, recipe, where / "killed", whole, instants=count, seed=seed),
            )


def damages(nursery: Nursery, folder: Path, seed: int) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(What was damaged, how, found and harmless) of each store."""
    for damage in DAMAGES:
        where = folder / damage
        yield "shards", damage, damage_shards(where / "shards", damage, count=300, seed=seed)
        yield "lmdb", damage, damage_lmdb(nursery, where / "lmdb", damage, count=150, seed=seed)


def table(kill_rows: list[dict], damage_rows: list[dict]) -> str:
    """As markdown."""
    columns = ("tried", "survived", "lost", "duplicated", "finished")
    lines = [f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores", ""]
    if kill_rows:
        lines += ["| what was killed | where | instants | survived | lost | made twice | ends |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in kill_rows:
            numbers = " | ".join(str(row[c]) for c in columns)
            lines.append(f"| {row['what']} | {row['how']} | {numbers} |")
        lines.append("")
    if damage_rows:
        lines += [
            "| what was damaged | how | found | harmless | wrong values |",
            "|---|---|---|---|---|",
        ]
        for row in damage_rows:
            lines.append(
                f"| {row['what']} | {row['how']} | {row['found']} | {row['harmless']} | 0 |"
            )
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="kill and damage; count what is lost")
    parser.add_argument("--kills", type=int, default=50, help="by the clock, and of each recipe")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    kill_rows, damage_rows, began = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        env = {PREPARED: "1"}
        with Nursery("faults.writing", "faults.harm", log=folder / "log", env=env) as nursery:
            for what, how, figures in kills(nursery, folder, args.only, args.kills, args.seed):
                print(f"{what}, {how}: {figures}", flush=True)
                figures.check(1)
                kill_rows.append({"what": what, "how": how, **asdict(figures)})
            if "damage" in args.only:
                for what, how, found in damages(nursery, folder, args.seed):
                    print(f"{what}, {how}: {found}", flush=True)
                    damage_rows.append({"what": what, "how": how, **found})
    total = Figures()
    for row in kill_rows:
        total += Figures(**{name: row[name] for name in asdict(total)})
    print(f"in all: {total}")
    text = table(kill_rows, damage_rows)
    print(text)
    with atomic_path(RESULTS / "faults.md") as tmp:
        tmp.write_text(text)
    minutes = round((time.monotonic() - began) / 60, 1)
    facts = {"seed": args.seed, "minutes": minutes, "total": asdict(total)}
    write_json(RESULTS / "faults.json", facts | {"killed": kill_rows, "damaged": damage_rows})


if __name__ == "__main__":
    main()
