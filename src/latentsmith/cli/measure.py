"""``latentsmith measure SOURCE``: the latent-space card of any autoencoder, no training."""

import argparse
import re
from pathlib import Path
from typing import Any

from latentsmith.cli._models import is_run, kept, model_of_run, recipe_of
from latentsmith.cli._pipeline import add_overrides, go_through, out_of, prepare

HELP = "measure the latent space of any autoencoder: a page and a JSON file, no training"
EXAMPLES = """examples:
  latentsmith measure stabilityai/sd-vae-ft-mse data=image_folder data.folder=photos
  latentsmith measure runs/mmreg/laptop
  latentsmith measure runs/mmreg/laptop --model baseline
  latentsmith measure my_vae data=shapes transform.resolution=64 encoder.resolution=112
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "measure", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="hub id, folder in diffusers format, run")
    add_overrides(parser)
    parser.add_argument("--model", metavar="STAGE", help="of a run: which stage's model (the last)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when the autoencoder or data cannot be had or do not fit."""
    from latentsmith.config.compose import compose
    from latentsmith.config.run import ROOT, Run
    from latentsmith.errors import UserError

    if recipe_of(args.source) == "textlatent":
        raise UserError(
            f"{args.source} is a textlatent run: it measures itself, see {args.source}/report.html"
        )
    source, inherited, name = args.source, [], args.source
    if is_run(args.source, args.model):
        sections = ("data", "encoder", "transform", "more_references")
        source, inherited, stage = model_of_run(Path(args.source), args.model, sections)
        name = f"{Path(args.source).name}-{stage}"
    overrides = [f"autoencoder.source={source}", *kept(inherited, args.overrides), *args.overrides]
    config = compose("measure", overrides)
    out = out_of(args, "measure") or ROOT / "measure" / re.sub(r"[^\w.,=-]+", "_", name).strip("_")
    prepare()
    with Run.open(out, config, overrides, fresh=args.fresh) as opened:
        go_through(opened, config.stages())
        opened.finish()
    return 0
