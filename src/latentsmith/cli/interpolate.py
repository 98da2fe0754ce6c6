"""``latentsmith interpolate SOURCE``: what lies between two images, or two noises."""

import argparse
import json
from pathlib import Path
from typing import Any

from latentsmith.cli._models import generator_of_run, is_run, kept, model_of_run
from latentsmith.cli._pipeline import add_settings, carry_out

HELP = "decode the paths between pairs of images, or of a generator's noises"
EXAMPLES = """examples:
  latentsmith interpolate runs/mmreg/laptop
  latentsmith interpolate runs/mmreg/laptop --model baseline pairs=8 path=slerp
  latentsmith interpolate runs/mmreg/laptop --model generator-regularized
  latentsmith interpolate stabilityai/sd-vae-ft-mse images=[a.png,b.png] transform.resolution=256
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "interpolate", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="run, autoencoder (hub id or folder), or saved generator"
    )
    add_settings(parser, "interpolate")
    parser.add_argument(
        "--model", metavar="STAGE", help="of a run: which stage's autoencoder or generator"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no such model, or settings do not fit it."""
    words, name = _source(args)
    return carry_out("interpolate", [*kept(words, args.overrides), *args.overrides], name, args)


def _source(args: argparse.Namespace) -> tuple[list[str], str]:
    """The source as settings, and what to call it."""
    path = Path(args.source)
    run = is_run(args.source, args.model)
    if run and (args.model or "").startswith("generator"):
        folder, inherited, stage = generator_of_run(path, args.model)
        return [f"generator={json.dumps(folder)}", *inherited], f"{path.name}-{stage}"
    if run:
        model, inherited, stage = model_of_run(path, args.model, ("data", "transform"))
        return [f"autoencoder.source={json.dumps(model)}", *inherited], f"{path.name}-{stage}"
    if (path / "generator.json").is_file():
        return [f"generator={json.dumps(args.source)}"], path.name
    return [f"autoencoder.source={json.dumps(args.source)}"], path.name
