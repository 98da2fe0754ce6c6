"""``latentsmith runs [FOLDER]``: which runs there are and how each stands."""

import argparse
from pathlib import Path
from typing import Any

HELP = "list runs with recipe, state, age, size and best number"
EXAMPLES = """examples:
  latentsmith runs
  latentsmith runs runs/mmreg
  latentsmith runs --state failed
  latentsmith runs --json
"""
STATES = ("done", "running", "stopped", "failed")


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "runs", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="where to look (default: runs)"
    )
    parser.add_argument("--state", choices=STATES, help="only those that stand so")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.set_defaults(run=runs)


def runs(args: argparse.Namespace) -> None:
    """Print, the last touched first. Raises UserError for a folder that is not there."""
    from latentsmith.errors import UserError
    from latentsmith.utils.run_folders import facts, find_runs

    root = args.folder or Path("runs")
    if not root.is_dir():
        hint = "" if args.folder else ": nothing was run from this folder yet. Give another"
        raise UserError(f"there is no folder {root}{hint}")
    found = sorted((facts(path) for path in find_runs(root)), key=lambda run: run.age)
    found = [run for run in found if args.state in (None, run.state)]
    if args.json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(run) for run in found], indent=1, default=str))
        return
    if not found:
        print(f"no {args.state + ' ' if args.state else ''}runs in {root}")
        return
    rows = [("run", "recipe", "state", "stages", "changed", "size", "best")]
    for run in found:
        rows.append((
            str(run.folder), run.recipe, run.state, f"{run.stages} done", f"{age(run.age)} ago",
            size(run.size), run.error.partition("\n")[0] or run.best,
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())


def age(seconds: float) -> str:
    """``4000`` → ``1h``: the largest unit of which there is one."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def size(count: float) -> str:
    """``1500000`` → ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
