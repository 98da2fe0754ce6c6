"""``latentsmith new-recipe NAME``: a working recipe with its tests, to start from."""

import argparse
import shlex
from pathlib import Path
from typing import Any

HELP = "write a working recipe with presets, report and tests, as a plug-in to start from"
EXAMPLES = """examples:
  latentsmith new-recipe my_method
  latentsmith new-recipe my_method --out ~/research/my_method
  latentsmith new-recipe my_method --in-tree    # in a checkout, among latentsmith's own recipes
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "new-recipe", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("name", metavar="NAME", help="lower case letters, digits and _")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: NAME)")
    parser.add_argument(
        "--in-tree", action="store_true", help="into the checkout that latentsmith runs from"
    )
    parser.set_defaults(run=new_recipe)


def new_recipe(args: argparse.Namespace) -> None:
    """Write, and say how to go on. Raises UserError for a name that cannot be, or a place that is
    taken."""
    from latentsmith.cli._scaffold import as_plugin, checkout, in_tree
    from latentsmith.errors import UserError

    if args.in_tree:
        if args.out is not None:
            raise UserError("give --out DIR or --in-tree, not both")
        package, test = in_tree(args.name, checkout())
        print(f"wrote {package} and {test}")
        print("try it:")
        print(f"  latentsmith run {args.name} scale=smoke")
        print(f"  python -m pytest {test}")
        print("  make docs    # its page of settings")
        return
    folder = as_plugin(args.name, args.out or Path(args.name))
    print(f"wrote {folder}")
    print("try it:")
    place = shlex.quote(str(folder))
    print(f"  export LATENTSMITH_PLUGINS={shlex.quote(str((folder / args.name).resolve()))}")
    print(f"  latentsmith run {args.name} scale=smoke")
    print(f"  python -m pytest {place}")
    print(f"or install it: pip install -e {place}")
