"""``latentsmith train RECIPE.STAGE``: one stage of a recipe."""

import argparse
import os
from typing import Any

from latentsmith.cli._abreast import BESIDE, take_part
from latentsmith.cli._pipeline import add_overrides, go_through, out_of, prepare

HELP = "run one stage of a recipe, e.g. mmreg.pretrain; the same command resumes"


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("train", help=HELP, description=HELP)
    parser.add_argument("stage", metavar="RECIPE.STAGE", help="e.g. mmreg.pretrain")
    add_overrides(parser)
    parser.set_defaults(run=train)


def train(args: argparse.Namespace) -> None:
    """Raises UserError for an unknown recipe or stage, or settings that do not work."""
    from latentsmith.config.compose import compose
    from latentsmith.config.run import Run
    from latentsmith.errors import UserError, nearest

    recipe, _, name = args.stage.partition(".")
    if BESIDE in os.environ:
        take_part(args.out, name)
        return
    config = compose(recipe, args.overrides)
    stages = {stage.name: stage for stage in config.stages()}
    if not name:
        raise UserError(
            f"{args.stage}: which stage? Write {recipe}.STAGE, one of: {', '.join(stages)}."
        )
    if name not in stages:
        raise UserError(f"{recipe} has no stage {name!r}. {nearest(name, stages)}")
    prepare()
    with Run.open(out_of(args, recipe), config, args.overrides, fresh=args.fresh) as run:
        go_through(run, [stages[name]])
        print(run.path)
