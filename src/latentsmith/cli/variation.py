"""``latentsmith variation SOURCE``: images like given ones, by any generator (SDEdit)."""

import argparse
from typing import Any

from latentsmith.cli._edits import add_verb, carry_out_verb, option
from latentsmith.cli._texts import add_prompts, prompt_words

HELP = "images like given ones, by any generator: noised to a strength and made again"
EXAMPLES = """examples:
  latentsmith variation runs/mmreg/laptop --image photo.png
  latentsmith variation runs/mmreg/laptop --image photos --strength 0.4 count=8 seed=1
  latentsmith variation runs/mmreg/laptop --image photo.png labels=[coat,bag] guidance=cfg
  latentsmith variation runs/urepa/laptop --image photo.png --prompt "a photo of a boot"
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_verb(subparsers, "variation", HELP, EXAMPLES)
    add_prompts(parser)
    parser.add_argument(
        "--strength",
        type=float,
        metavar="T",
        help="0 (the image itself) to 1 (nothing of it); default 0.6",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no generator, or settings do not fit it."""
    options = [*prompt_words(args.prompt, args.prompts), *option("strength", args.strength)]
    return carry_out_verb(args, "variation", options)
