"""``latentsmith encode RUN --points FILE``: codes of sparse fields."""

import argparse
from typing import Any

from latentsmith.cli._fields import add_field_verb, add_points, field_autoencoder

HELP = "scattered points to the latent codes of a trained field autoencoder"
EXAMPLES = """examples:
  latentsmith encode runs/field/laptop --points stations.npz --out codes.npz
  latentsmith encode runs/field/laptop --points photo.png --inputs 205 --out codes.npz
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_field_verb(subparsers, "encode", HELP, EXAMPLES)
    add_points(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model or points cannot be had, or do not fit."""
    from latentsmith.autoencoders.field.files import encode, given_points, save_codes

    autoencoder = field_autoencoder(args)
    points = given_points(autoencoder, args.points, inputs=args.inputs, seed=args.seed)
    codes = encode(autoencoder, points)
    save_codes(autoencoder, codes, args.out)
    print(f"codes {list(codes.shape)} in {args.out}")
    return 0
