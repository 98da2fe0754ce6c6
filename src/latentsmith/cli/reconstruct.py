"""``latentsmith reconstruct RUN --points FILE``: from scattered points to any resolution."""

import argparse
from typing import Any

from latentsmith.cli._fields import (
    add_asked,
    add_field_verb,
    add_points,
    asked_of,
    field_autoencoder,
    write_values,
)

HELP = "scattered points to values at any coordinates or resolution (encode, then decode)"
EXAMPLES = """examples:
  latentsmith reconstruct runs/field/laptop --points stations.npz --resolution 96 --out map.npz
  latentsmith reconstruct runs/field/laptop --points photo.png --inputs 205 --resolution 96 \\
      --out photo.npz
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_field_verb(subparsers, "reconstruct", HELP, EXAMPLES)
    add_points(parser)
    add_asked(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model or points cannot be had, or do not fit."""
    from latentsmith.autoencoders.field.files import decode, encode, given_points

    asked, autoencoder = asked_of(args), field_autoencoder(args)
    points = given_points(autoencoder, args.points, inputs=args.inputs, seed=args.seed)
    write_values(decode(autoencoder, encode(autoencoder, points), asked), args.out)
    return 0
