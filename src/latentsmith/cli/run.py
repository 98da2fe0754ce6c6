"""``latentsmith run RECIPE``: a whole recipe, resumable, ending in a report."""

import argparse
from typing import Any

from latentsmith.cli._pipeline import (
    add_overrides,
    add_until,
    check_needs,
    go_through,
    out_of,
    prepare,
    up_to,
)

HELP = "run a whole recipe: train, measure, report; the same command resumes"
EXAMPLES = """examples:
  latentsmith run mmreg scale=laptop
  latentsmith run mmreg scale=laptop --until measure
  latentsmith run mmreg scale=laptop loss.weight=0.3 --name third-try
  latentsmith run mmreg scale=laptop data=fashion_mnist encoder=dinov2 loss.weight=0.3
  latentsmith run mmreg scale=paper --dry-run
  latentsmith run mmreg --help-settings
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("recipe", metavar="RECIPE", help="see 'latentsmith list recipes'")
    add_overrides(parser)
    add_until(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved settings and check that everything fits; train nothing",
    )
    parser.add_argument(
        "--help-settings", action="store_true", help="print the recipe's settings and stop"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError for settings that do not work or a folder that is taken."""
    from latentsmith.config.compose import compose
    from latentsmith.config.run import Run, default_path
    from latentsmith.config.saved import to_yaml

    if args.help_settings:
        from latentsmith.config.help import settings_help

        print(settings_help(args.recipe, args.overrides))
        return 0
    config = compose(args.recipe, args.overrides)
    out = out_of(args, args.recipe)
    if args.dry_run:
        path = out or default_path(args.recipe, args.overrides)
        print(to_yaml(config))
        config.dry_run(Run(path, config, args.overrides))
        print(f"dry run passed; a real one writes {path}")
        return 0
    stages = up_to(config.stages(), args.until)
    if args.until is None:
        check_needs(config)
    prepare()
    with Run.open(out, config, args.overrides, fresh=args.fresh) as opened:
        go_through(opened, stages, abreast=True)
        if args.until is None:
            opened.finish()
        if opened.writable:
            print(opened.path)
    return 0
