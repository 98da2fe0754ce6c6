"""``latentsmith edit SOURCE``: images changed as told, by a generator that was trained on edits."""

import argparse
from pathlib import Path
from typing import Any

from latentsmith.cli._edits import add_verb, carry_out_verb, option
from latentsmith.cli._texts import prompt_words

HELP = "change images as an instruction says, by a generator trained on edits"
EXAMPLES = """examples:
  latentsmith edit RUN --image photo.png --instruction "make it red"
  latentsmith edit RUN --image photos --instructions FILE count=4 seed=1
  latentsmith edit RUN --image a.png --instruction "make it red" --text-guidance 5 \\
      --image-guidance 1.5
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_verb(subparsers, "edit", HELP, EXAMPLES)
    parser.add_argument(
        "--instruction",
        action="append",
        metavar="TEXT",
        help="what to change; several, each on each image: give it again",
    )
    parser.add_argument(
        "--instructions", type=Path, metavar="FILE", help="instructions, one a line (UTF-8)"
    )
    parser.add_argument(
        "--text-guidance",
        type=float,
        metavar="SCALE",
        help="how far the instruction is exaggerated (guidance.text)",
    )
    parser.add_argument(
        "--image-guidance",
        type=float,
        metavar="SCALE",
        help="how far likeness to the image is exaggerated (guidance.image)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no generator trained on edits, or settings do not fit it."""
    options = [
        *prompt_words(args.instruction, args.instructions),
        *option("guidance.text", args.text_guidance),
        *option("guidance.image", args.image_guidance),
    ]
    return carry_out_verb(args, "edit", options, guidance="edit")
