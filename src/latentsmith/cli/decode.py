"""``latentsmith decode RUN --codes FILE``: values of fields at any coordinate."""

import argparse
from pathlib import Path
from typing import Any

from latentsmith.cli._fields import (
    add_asked,
    add_field_verb,
    asked_of,
    field_autoencoder,
    write_values,
)

HELP = "latent codes to values at any coordinates or resolution"
EXAMPLES = """examples:
  latentsmith decode runs/field/laptop --codes codes.npz --resolution 256 --out values.npz
  latentsmith decode runs/field/laptop --codes codes.npz --coordinates at.npy --out values.npz
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_field_verb(subparsers, "decode", HELP, EXAMPLES)
    parser.add_argument(
        "--codes", type=Path, required=True, metavar="FILE", help="what latentsmith encode wrote"
    )
    add_asked(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model or codes cannot be had, or do not belong together."""
    from latentsmith.autoencoders.field.files import decode, load_codes

    asked, autoencoder = asked_of(args), field_autoencoder(args)
    write_values(decode(autoencoder, load_codes(autoencoder, args.codes), asked), args.out)
    return 0
