"""What the verbs on fields share: a trained field autoencoder, and where values go."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsmith.cli._models import is_run, model_of_run
from latentsmith.cli._pipeline import seed

if TYPE_CHECKING:
    import numpy as np

    from latentsmith.autoencoders.field.files import Asked
    from latentsmith.autoencoders.field.model import FieldAutoencoder


def add_field_verb(subparsers: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all share."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=text, epilog=examples
    )
    parser.add_argument("source", metavar="SOURCE", help="run, or folder of its model")
    parser.add_argument("--model", metavar="STAGE", help="of a run: which stage's model (the last)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="written")
    return parser


def add_points(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where the given points come from."""
    parser.add_argument(
        "--points", type=Path, required=required, metavar="FILE",
        help=".npz with coordinates and values, or an image",
    )  # fmt: skip
    parser.add_argument(
        "--inputs", type=int, metavar="N", help="of an image: lattice points that are given (all)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of an image: which points")


def add_asked(parser: argparse.ArgumentParser) -> None:
    """Where values are wanted."""
    parser.add_argument("--resolution", type=int, metavar="R", help="on a grid of R points a side")
    parser.add_argument(
        "--supersample", type=int, default=1, metavar="K",
        help="each of the grid's values a mean over K points a side",
    )  # fmt: skip
    parser.add_argument(
        "--coordinates", type=Path, metavar="FILE", help="at these, .npy [M, d] in [-1, 1]"
    )


def asked_of(args: argparse.Namespace) -> "Asked":
    """Raises UserError for what cannot be meant."""
    from latentsmith.autoencoders.field.files import Asked

    return Asked.of(args.resolution, args.supersample, args.coordinates)


def field_autoencoder(args: argparse.Namespace) -> "FieldAutoencoder":
    """The trained autoencoder that is meant.

    Raises:
        UserError: there is none, or it is of another family.
    """
    from latentsmith.autoencoders.field.model import FieldAutoencoder
    from latentsmith.autoencoders.load import load_autoencoder
    from latentsmith.errors import UserError

    folder = args.source
    if is_run(args.source, args.model):
        folder, _, _ = model_of_run(Path(args.source), args.model, ())
    found = load_autoencoder(folder)
    if not isinstance(found, FieldAutoencoder):
        raise UserError(
            f"{args.source} holds a {found.kind}, which takes images and no points: give a run of "
            "latentsmith run field, or use latentsmith measure, sample or interpolate"
        )
    return found


def write_values(arrays: "dict[str, np.ndarray]", out: Path) -> None:
    """The file, and beside it a picture where values are one."""
    import torch

    from latentsmith.autoencoders.field.files import save_arrays
    from latentsmith.training.grids import save_grid

    save_arrays(arrays, out)
    print(f"values {list(arrays['values'].shape)} in {out}")
    whole = arrays.get("grid")
    if whole is not None and whole.ndim == 4 and whole.shape[1] in (1, 3):
        picture = out.with_suffix(".png")
        save_grid((torch.from_numpy(whole) + 1) / 2, picture)
        print(f"a picture in {picture}")
