"""``latentsmith sample RUN``: images from a trained generator."""

import argparse
import json
from pathlib import Path
from typing import Any

from latentsmith.cli._pipeline import go_through, prepare

HELP = "generate images: a grid and files, the same for the same seed whatever the batch size"
EXAMPLES = """examples:
  latentsmith sample runs/mmreg/laptop
  latentsmith sample runs/mmreg/laptop --model generator-baseline count=256 seed=3
  latentsmith sample runs/mmreg/laptop labels=[coat,bag] guidance=cfg guidance.scale=2
  latentsmith sample my_generator sampler=dpmpp_2m sampler.steps=20
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sample", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run, or folder of a saved generator")
    add_settings(parser, "sample")
    parser.add_argument(
        "--model", metavar="STAGE", help="of a run: which stage's generator (the last)"
    )
    parser.set_defaults(run=run)


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


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no generator, or settings do not fit it."""
    from latentsmith.cli._models import is_run

    source, inherited, name = args.source, [], Path(args.source).name
    if is_run(args.source):
        source, inherited, stage = generator_of_run(Path(args.source), args.model)
        name = f"{name}-{stage}"
    words = [f"generator={json.dumps(str(source))}", *inherited, *args.overrides]
    return carry_out("sample", words, name, args)


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


def generator_of_run(path: Path, stage: str | None) -> tuple[str, list[str], str]:
    """(generator's folder, the run's sampler and guidance as overrides, stage).

    Raises:
        UserError: the run has no generator, or none of that stage.
    """
    from latentsmith.cli._models import words_of
    from latentsmith.config.run import Run
    from latentsmith.config.saved import to_dict
    from latentsmith.errors import UserError, nearest

    run = Run.load(path)
    done = [s.name for s in run.config.stages() if run.stage_done(s.name)]
    found = {s: g for s in done if (g := run.summary(s).get("generators"))}
    if not found:
        raise UserError(
            f"{path} has no trained generator yet: the same latentsmith run, without --until, goes "
            "on to it"
        )
    stage = stage or list(found)[-1]
    if stage not in found:
        raise UserError(f"{path} has no generator of stage {stage!r}. {nearest(stage, found)}")
    settings = to_dict(run.config)["generation"]
    words = [w for section in ("sampler", "guidance") for w in words_of(section, settings[section])]
    return found[stage][0]["generator"], words, stage
