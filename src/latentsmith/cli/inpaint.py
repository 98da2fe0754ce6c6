"""``latentsmith inpaint SOURCE``: a masked part of images made anew, by any generator (RePaint)."""

import argparse
from pathlib import Path
from typing import Any

from latentsmith.cli._edits import add_verb, carry_out_verb, option
from latentsmith.cli._texts import add_prompts, prompt_words

HELP = "a masked part of images made anew, by any generator"
EXAMPLES = """examples:
  latentsmith inpaint runs/mmreg/laptop --image photo.png --mask hole.png
  latentsmith inpaint runs/mmreg/laptop --image photo.png --mask hole.png rounds=3 count=8
  latentsmith inpaint runs/urepa/laptop --image photo.png --mask hole.png --prompt "a sneaker"
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_verb(subparsers, "inpaint", HELP, EXAMPLES)
    add_prompts(parser)
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="image of the same shape, white where made anew"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no generator, or settings do not fit it."""
    options = [*prompt_words(args.prompt, args.prompts), *option("mask", args.mask)]
    return carry_out_verb(args, "inpaint", options)
