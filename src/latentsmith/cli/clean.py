"""``latentsmith clean [FOLDER]``: free space of what is not needed any more."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsmith.utils.cleaning import Junk

HELP = "show what takes room and is not needed: idle caches, old checkpoints; --yes removes it"
EXAMPLES = """Without --yes nothing is removed.

  caches        made stores, references and corpora that no run relies on which is still there, in
                whatever folder (one made by `latentsmith cache` counts from the first run that
                reads it); they are made again when a run asks. Fetched data stay
  checkpoints   of runs that went through: all but the last of each training

examples:
  latentsmith clean
  latentsmith clean runs/mmreg --last-checkpoints
  latentsmith clean --old-runs --yes
"""
TITLES = {
    "cache": "caches that no run relies on",
    "checkpoint": "older checkpoints of finished runs",
    "last checkpoint": "last checkpoints of finished runs (they cannot be trained longer then)",
    "old run": "runs moved aside by --fresh",
}


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "clean", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="where to look for runs (default: runs)",
    )
    parser.add_argument(
        "--last-checkpoints", action="store_true", help="of finished runs the last ones too"
    )
    parser.add_argument("--old-runs", action="store_true", help="runs that --fresh moved aside too")
    parser.add_argument("--yes", action="store_true", help="remove them")
    parser.set_defaults(run=clean)


def clean(args: argparse.Namespace) -> int:
    """Print what may go, or remove it. Exit code 1 when something could not be removed. Raises
    UserError for a folder that is not there."""
    from latentsmith.cli.runs import size
    from latentsmith.errors import UserError
    from latentsmith.utils.cleaning import remove

    root = args.folder or Path("runs")
    if args.folder and not root.is_dir():
        raise UserError(f"there is no folder {root}")
    found = _found(root, args)
    for sort, title in TITLES.items():
        some = [junk for junk in found if junk.sort == sort]
        if some:
            print(f"{title}: {size(sum(junk.size for junk in some))}")
            print("\n".join(f"  {size(junk.size):>7}  {junk.path}" for junk in some))
    if not found:
        print("nothing to clean")
        return 0
    if not args.yes:
        total = size(sum(junk.size for junk in found))
        print(f"{total} could be freed; --yes removes what is listed")
        return 0
    left = {junk: problem for junk in found if (problem := remove(junk))}
    for junk, problem in left.items():
        print(f"{junk.path} {problem}")
    print(f"{size(sum(junk.size for junk in found if junk not in left))} freed")
    return 1 if left else 0


def _found(root: Path, args: argparse.Namespace) -> "list[Junk]":
    """All junk, nothing twice."""
    from latentsmith.utils.cleaning import idle_caches, in_use, old_checkpoints, old_runs
    from latentsmith.utils.run_folders import find_runs

    runs = [run for run in find_runs(root) if not in_use(run)]
    moved = old_runs(runs) if args.old_runs else []
    kept = [run for run in runs if run not in {junk.path for junk in moved}]
    checkpoints = [c for run in kept for c in old_checkpoints(run, last=args.last_checkpoints)]
    # the last of a training goes last: until then it stands for the others
    return [*idle_caches(), *sorted(checkpoints, key=lambda c: c.sort), *moved]
