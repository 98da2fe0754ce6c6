"""``latentsmith roundtrip RUN --texts FILE``: texts to latents and back."""

import argparse
from dataclasses import asdict
from typing import Any

from latentsmith.cli._textlatent import (
    add_decoding,
    add_rounds,
    add_text_verb,
    add_texts,
    decoding,
    tell,
    texts_of,
    translator_of,
)

HELP = "texts to latents and back: what a latent keeps of a text"
EXAMPLES = """examples:
  latentsmith roundtrip runs/textlatent/laptop --texts my.txt
  latentsmith roundtrip runs/textlatent/laptop --texts my.txt --by model --candidates 8
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_text_verb(subparsers, "roundtrip", HELP, EXAMPLES)
    add_texts(parser)
    add_decoding(parser)
    parser.add_argument(
        "--by", choices=["encoder", "model"], default="encoder",
        help="who makes the first latents and judges: the real text encoder, or the model itself",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", type=int, default=1, metavar="N",
        help="texts drawn for each latent, reranked by the model (1)",
    )  # fmt: skip
    add_rounds(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model or texts cannot be had, or do not fit."""
    from latentsmith.errors import UserError
    from latentsmith.sampling.text_latent.writing import roundtrip

    if args.candidates < 1:
        raise UserError(f"--candidates {args.candidates}: at least 1")
    if args.rounds < 0:
        raise UserError(f"--rounds {args.rounds}: 0 or more")
    config = decoding(args, 0.7 if args.candidates > 1 or args.rounds else 0.0)
    texts, translator = texts_of(args.texts, args.field), translator_of(args.source, args.model)
    encoder = translator.made_by.build() if args.by == "encoder" else None
    trips = roundtrip(
        translator, texts, config,
        candidates=args.candidates, rounds=args.rounds, encoder=encoder, seed=args.seed,
    )  # fmt: skip
    tell([asdict(trip) for trip in trips], args.out)
    if args.out is not None:
        exact = sum(trip.same for trip in trips)
        cosine = sum(trip.cosine for trip in trips) / len(trips)
        print(f"{exact} of {len(trips)} came back the same; mean cosine {cosine:.3f} ({args.by})")
    return 0
