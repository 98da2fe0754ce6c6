"""``latentsmith sweep RECIPE key=a,b,c``: a grid or list of runs, one report that compares them."""

import argparse
import itertools
import logging
import re
import traceback
from pathlib import Path
from typing import Any

from latentsmith.cli._pipeline import (
    add_overrides,
    add_until,
    check_needs,
    clock,
    go_through,
    out_of,
    prepare,
    up_to,
)

log = logging.getLogger(__name__)

HELP = "run a recipe for every combination of settings, then compare"
EXAMPLES = """examples:
  latentsmith sweep mmreg scale=laptop loss.weight=0,0.1,0.3,1,3
  latentsmith sweep mmreg scale=laptop loss=pearson,si_huber 'seed=range(0,3)'
  latentsmith sweep mmreg scale=laptop 'seed=range(0,8)' --part 1/2   # and 2/2 elsewhere
  latentsmith sweep textlatent preset=ablations only=A6,B,C seed=0,1,2
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sweep", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("recipe", metavar="RECIPE", help="see 'latentsmith list recipes'")
    add_overrides(parser)
    add_until(parser)
    parser.add_argument(
        "--part",
        metavar="I/N",
        help="run only every N-th combination, from the I-th: for several processes, machines with "
        "a common disk, or the tasks of a job array. The last to finish writes the report",
    )
    parser.set_defaults(run=sweep)


def sweep(args: argparse.Namespace) -> int:
    """Run what is not finished, go on past failures, report. Exit code 1 when any failed.

    Raises UserError, before anything runs, naming every combination that cannot work.
    """
    from latentsmith.config.run import ROOT, default_path
    from latentsmith.errors import UserError

    grid, labels = runs(args.recipe, args.overrides)
    configs = _compose_all(args.recipe, grid)
    if args.until is not None:
        up_to(configs[0].stages(), args.until)  # a mistake shows before anything runs
    path = default_path(args.recipe, args.overrides)
    out = out_of(args, args.recipe) or ROOT / args.recipe / f"sweep-{path.name}"
    mine = part(args.part, len(grid))
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file, and the runs need a folder: give another")
    for config in configs:
        check_needs(config)
    prepare()
    folders = [out / name for name in labels]
    failed: dict[Path, str] = {}
    for n, (folder, words, config) in enumerate(zip(folders, grid, configs, strict=True), 1):
        if n - 1 not in mine:
            continue
        log.info("sweep %d/%d: %s", n, len(grid), folder.name)
        problem = _run_one(folder, config, words, fresh=args.fresh, until=args.until)
        if problem:
            failed[folder] = problem
            log.error("%s failed: %s", folder.name, problem)
    whole = args.part is None or _all_finished(folders)
    finished = folders if whole else [folders[n] for n in mine]
    finished = [folder for folder in finished if folder not in failed]
    early = args.until is not None and not any(_has_numbers(folder) for folder in finished)
    if finished and whole and not early:
        _report(configs[0], finished, out)
    for folder, problem in failed.items():
        print(f"failed: {folder}: {problem}")
    print(f"{len(finished)} of {len(grid)} runs finished in {out}")
    return 1 if failed else 0


def runs(recipe: str, overrides: list[str]) -> tuple[list[list[str]], list[str]]:
    """Words and folder name of each run: of a list (``preset=NAME``) or a grid."""
    from latentsmith.config.sweeps import listed

    found = listed(recipe, overrides)
    if found is not None:
        return found.words, found.names
    grid = expand(overrides)
    return grid, names(grid)


def part(text: str | None, count: int) -> list[int]:
    """Numbers of the combinations that ``--part`` means: ``2/3`` of 7 → 1, 4.

    Raises UserError for what is no part.
    """
    from latentsmith.errors import UserError

    if text is None:
        return list(range(count))
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part {text}: give I/N with 1 ≤ I ≤ N, e.g. --part 1/2")
    return list(range(int(found[1]) - 1, count, int(found[2])))


def _all_finished(folders: list[Path]) -> bool:
    """Whether every run of the grid went through, here or elsewhere."""
    return all((folder / "finished.json").is_file() for folder in folders)


def expand(overrides: list[str]) -> list[list[str]]:
    """Every combination of ``key=a,b,c``, ``key=range(0,3)`` and ``key=choice(a,b)`` words; the
    last swept word varies fastest. Words without alternatives are kept in each.

    Raises UserError for words that cannot be read, or when nothing is swept.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from latentsmith.config import errors
    from latentsmith.errors import UserError

    words, problems = errors.readable_words(overrides)
    axes: list[list[str]] = []
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            problems.append(errors.unreadable(word, str(error)))
            continue
        if override.is_sweep_override():
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            axes.append([word])
    if problems:
        raise UserError("\n  ".join(["cannot read the sweep:", *problems]))
    if all(len(axis) == 1 for axis in axes):
        raise UserError(
            "nothing to sweep over: give a setting several values, e.g. loss.weight=0,0.1,0.3"
        )
    return [list(combination) for combination in itertools.product(*axes)]


def names(grid: list[list[str]]) -> list[str]:
    """Folder names ``<n>-<what differs>``, a function of the grid alone."""
    varying = [len({words[i] for words in grid}) > 1 for i in range(len(grid[0]))]
    width = len(str(len(grid) - 1))
    return [
        f"{n:0{width}}-"
        + re.sub(
            r"[^\w.,=+@~\[\]-]+",
            "_",
            ",".join(word for word, varies in zip(words, varying, strict=True) if varies),
        )[:120]
        for n, words in enumerate(grid)
    ]


def _compose_all(recipe: str, grid: list[list[str]]) -> list[Any]:
    """Typed configs of the whole grid: a mistake in the last shows before the first has run."""
    from latentsmith.config.compose import compose
    from latentsmith.errors import UserError

    configs, problems = [], []
    for words in grid:
        try:
            configs.append(compose(recipe, words))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return configs


def _run_one(
    folder: Path, config: Any, words: list[str], *, fresh: bool, until: str | None
) -> str | None:
    """Run or resume one combination. Returns what went wrong, if anything."""
    import time

    from latentsmith.config.run import Run
    from latentsmith.errors import UserError

    started = time.monotonic()
    try:
        with Run.open(folder, config, words, fresh=fresh) as run:
            run.shared = folder.parent / "shared"
            if run.finished:
                log.info("finished before; skipped")
                return None
            go_through(run, up_to(config.stages(), until))
            if until is None:
                run.finish()
    except UserError as error:
        return str(error)
    except Exception as error:  # one bad combination must not cost the others
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {folder / 'error.txt'})"
    (folder / "error.txt").unlink(missing_ok=True)
    log.info("done in %s", clock(time.monotonic() - started))
    return None


def _has_numbers(folder: Path) -> bool:
    """Whether there is something to compare; a sweep ``--until`` an early stage has nothing yet."""
    return any((folder / name).is_file() for name in ("report.json", "metrics.jsonl"))


def _report(config: Any, folders: list[Path], out: Path) -> None:
    """The recipe's own sweep report, or the comparison any runs can have."""
    hook = getattr(config, "sweep_report", None)
    if hook is not None:
        hook(folders, out)
        return
    from latentsmith.reports.compare import compare
    from latentsmith.reports.console import print_verdict

    print_verdict(compare(folders, out), out / "report.html")
