"""What the verbs that carry out a recipe share: arguments, and going through stages."""

import argparse
import contextlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentsmith.config.run import Run
    from latentsmith.recipes.base import RecipeConfig, Stage

log = logging.getLogger(__name__)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The ``key=value`` words and where the run goes."""
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings, e.g. scale=laptop"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="run folder (default: runs/RECIPE/SCALE, with the other settings appended)",
    )
    parser.add_argument("--name", metavar="NAME", help="short for --out runs/RECIPE/NAME")
    parser.add_argument(
        "--fresh", action="store_true", help="start anew; an existing run is moved aside"
    )


def out_of(args: argparse.Namespace, recipe: str) -> Path | None:
    """The run's folder where the line says it: ``--out``, or ``--name`` among the recipe's runs.
    Raises UserError for both, and for what no folder can be called."""
    from latentsmith.config.run import ROOT, folder_name
    from latentsmith.errors import UserError

    if args.name is None:
        return args.out
    if args.out is not None:
        raise UserError("give --out FOLDER or --name NAME, not both")
    if not args.name.strip(".") or folder_name([args.name]) != args.name:
        raise UserError(
            f"--name {args.name}: a name is made of letters, digits and . _ - + = @ , and is at "
            "most 120 letters long; a path goes with --out"
        )
    return ROOT / recipe / args.name


def add_settings(parser: argparse.ArgumentParser, recipe: str) -> None:
    """The settings' words and where the output goes."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help=f"see 'latentsmith list settings {recipe}'",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"where to (default: runs/{recipe}/…)"
    )
    parser.add_argument("--fresh", action="store_true", help="make them anew")


def add_until(parser: argparse.ArgumentParser) -> None:
    """Where to end early."""
    parser.add_argument(
        "--until", metavar="STAGE",
        help="end after this stage (and the report); without it, the same command goes on later",
    )  # fmt: skip


def seed(text: str) -> int:
    """The type of ``--seed``: what generators take."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text}: a seed is between 0 and 2^63 - 1")
    return value


def up_to(stages: "list[Stage]", until: str | None) -> "list[Stage]":
    """The stages through ``until`` and those that close what is there by then; all without it.
    Raises UserError."""
    from latentsmith.errors import UserError, nearest

    if until is None:
        return stages
    names = [stage.name for stage in stages]
    if until not in names:
        raise UserError(f"--until {until}: no such stage. {nearest(until, names)}")
    last = names.index(until)
    reached = names[: last + 1]
    return [s for n, s in enumerate(stages) if n <= last or s.closing in reached]


def check_needs(config: "RecipeConfig") -> None:
    """Raises UserError for what a whole run will lack for sure: what its last stage needs shows
    before its first has trained. Weights that the hub may still give are not asked for."""
    from latentsmith.errors import UserError
    from latentsmith.utils.needs import needs_of

    lacking = {need.what: need for need in needs_of(config) if need.ok is False and not need.later}
    if lacking:
        told = "\n".join(f"  {need.what}: {need.how}" for need in lacking.values())
        raise UserError(f"the recipe {config.kind} needs what is not there:\n{told}")


def prepare() -> None:
    """Set the process up for training."""
    from latentsmith.utils.memory import keep_heap
    from latentsmith.utils.threads import thread_warning

    keep_heap()
    warning = thread_warning()
    if warning:
        log.warning(warning)


def go_through(run: "Run", stages: "list[Stage]", *, abreast: bool = False) -> None:
    """Run the stages in order; each resumes or skips what is done.

    Args:
        abreast: do those that need nothing of each other side by side, in processes of their own,
            where there are threads to share out (`latentsmith.cli._abreast`).
    """
    from latentsmith.cli._abreast import grouped, share, side_by_side

    marks = {stage.name: f"[{n}/{len(stages)}] {stage.name}" for n, stage in enumerate(stages, 1)}
    for group in grouped(stages) if abreast else [[stage] for stage in stages]:
        if threads := share(run, group):
            side_by_side(run, group, marks, threads)
            continue
        for stage in group:
            announce(run, stage, marks[stage.name])
            started = time.monotonic()
            carry_on(run, stage)
            log.info("%s: %s", marks[stage.name], clock(time.monotonic() - started))


def announce(run: "Run", stage: "Stage", mark: str) -> None:
    """Say what comes now."""
    state = " (done before)" if run.stage_done(stage.name) else ""
    log.info("%s: %s%s", mark, stage.help, state)


def carry_on(run: "Run", stage: "Stage") -> None:
    """Run one stage; it resumes or skips what is done."""
    from latentsmith.utils.cache import used_by

    try:
        with memory_is_told(run, stage.name), used_by(run.path):
            stage.run(run)
    finally:
        run.let_go()


@contextlib.contextmanager
def memory_is_told(run: "Run", stage: str) -> "Iterator[None]":
    """Raises UserError for memory that runs out inside: of a training with the planner's word."""
    from latentsmith.errors import UserError
    from latentsmith.training.exhausted import OutOfMemory, is_exhausted

    try:
        yield
    except OutOfMemory as error:
        from latentsmith.cli._memory import advised

        raise advised(error, run.config, stage, run.overrides) from error
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        first = (str(error).splitlines() or ["MemoryError"])[0]
        raise UserError(
            f"stage {stage}: out of memory ({first}). Lower the batch size it works with, such as "
            "evaluate.batch_size or caches.batch_size; the same command goes on from here"
        ) from error


def carry_out(recipe: str, words: list[str], name: str, args: argparse.Namespace) -> int:
    """Compose, run, and say where the output is."""
    from latentsmith.config.compose import compose
    from latentsmith.config.run import ROOT, Run, folder_name

    config = compose(recipe, words)
    out = args.out or ROOT / recipe / folder_name([name, *sorted(args.overrides)])
    prepare()
    with Run.open(out, config, words, fresh=args.fresh) as opened:
        go_through(opened, config.stages())
        opened.finish()
        print(opened.path)
    return 0


def clock(seconds: float) -> str:
    """``75`` → ``1m15s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
