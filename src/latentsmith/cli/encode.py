"""``latentsmith encode RUN``: sparse fields to codes, or texts to latents."""

import argparse
from pathlib import Path
from typing import Any

from latentsmith.cli._fields import add_field_verb, add_points, field_autoencoder
from latentsmith.cli._textlatent import add_texts, save_latents, texts_of, translator_of

HELP = "scattered points to codes (field runs), or texts to latents (textlatent runs)"
EXAMPLES = """examples:
  latentsmith encode runs/field/laptop --points stations.npz --out codes.npz
  latentsmith encode runs/field/laptop --points photo.png --inputs 205 --out codes.npz
  latentsmith encode runs/textlatent/laptop --texts my.txt --out z.npy
  latentsmith encode runs/textlatent/laptop --texts my.jsonl --by encoder --out z.npy
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_field_verb(subparsers, "encode", HELP, EXAMPLES)
    add_points(parser, required=False)
    add_texts(parser, required=False)
    parser.add_argument(
        "--by", choices=["model", "encoder"], default="model",
        help="of texts: the trained model, or the text encoder it learned from",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=1, metavar="N",
        help="of texts: draws of the model's noise, averaged (1)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model, points or texts cannot be had, or do not fit."""
    from latentsmith.errors import UserError

    if (args.points is None) == (args.texts is None):
        raise UserError("give either --points FILE (of a field run) or --texts FILE (textlatent)")
    return _texts(args) if args.points is None else _points(args)


def _points(args: argparse.Namespace) -> int:
    from latentsmith.autoencoders.field.files import encode, given_points, save_codes

    autoencoder = field_autoencoder(args)
    points = given_points(autoencoder, args.points, inputs=args.inputs, seed=args.seed)
    codes = encode(autoencoder, points)
    save_codes(autoencoder, codes, args.out)
    print(f"codes {list(codes.shape)} in {args.out}")
    return 0


def _texts(args: argparse.Namespace) -> int:
    import torch

    from latentsmith.errors import UserError

    if args.draws < 1:
        raise UserError(f"--draws {args.draws}: at least 1")
    texts, translator = texts_of(args.texts, args.field), translator_of(args.source, args.model)
    if args.by == "model":
        latents = translator.encode(texts, draws=args.draws, seed=args.seed)
    else:
        encoder = translator.made_by.build()
        parts = (encoder(texts[i : i + 64]).embedding for i in range(0, len(texts), 64))
        latents = torch.cat([part.cpu() for part in parts])[:, None]
    save_latents(latents, Path(args.out))
    return 0
