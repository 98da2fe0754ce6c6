"""``latentsmith completion SHELL``: a script that completes the command line."""

import argparse
from typing import Any

from latentsmith.cli._completion import SHELLS

HELP = "print a script that completes verbs, recipes, presets and settings in your shell"
EXAMPLES = """examples:
  eval "$(latentsmith completion bash)"                  # this shell; for all: into ~/.bashrc
  latentsmith completion zsh > ~/.zfunc/_latentsmith     # a folder in $fpath, before compinit
  latentsmith completion fish > ~/.config/fish/completions/latentsmith.fish
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "completion", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=completion)


def completion(args: argparse.Namespace) -> None:
    """Print the script."""
    from latentsmith.cli._completion import script

    print(script(args.shell), end="")
