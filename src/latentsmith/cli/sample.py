"""``latentsmith sample RUN``: images from a trained generator, or texts of a textlatent run."""

import argparse
import json
from typing import Any

from latentsmith.cli._models import generator_of, kept, recipe_of
from latentsmith.cli._pipeline import add_settings, carry_out
from latentsmith.cli._textlatent import is_translator, pairs_from_noise
from latentsmith.cli._texts import add_prompts, prompt_words

HELP = "generate images (a grid and files, the same for the same seed and any batch size), or texts"
EXAMPLES = """examples:
  latentsmith sample runs/mmreg/laptop
  latentsmith sample runs/mmreg/laptop --model generator-baseline count=256 seed=3
  latentsmith sample runs/mmreg/laptop labels=[coat,bag] guidance=cfg guidance.scale=2
  latentsmith sample my_generator sampler=dpmpp_2m sampler.steps=20
  latentsmith sample runs/urepa/laptop --prompt "a photo of a sneaker" count=16
  latentsmith sample runs/urepa/laptop --prompts FILE guidance=cfg guidance.scale=5
  latentsmith sample runs/textlatent/laptop count=16 --out texts.jsonl
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sample", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run, or folder of a saved generator")
    add_settings(parser, "sample")
    add_prompts(parser)
    parser.add_argument(
        "--model", metavar="STAGE", help="of a run: which stage's generator (the last)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no generator, or settings do not fit it."""
    if is_translator(args.source) or recipe_of(args.source) == "textlatent":
        return pairs_from_noise(args.source, args.model, args.overrides, args.out)
    source, inherited, name = generator_of(args.source, args.model)
    args.overrides += prompt_words(args.prompt, args.prompts)
    inherited = kept(inherited, args.overrides)
    words = [f"generator={json.dumps(source)}", *inherited, *args.overrides]
    return carry_out("sample", words, name, args)
