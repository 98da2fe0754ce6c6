"""``latentsmith invert RUN --latents FILE``: texts of latents."""

import argparse
from typing import Any

from latentsmith.cli._textlatent import (
    add_decoding,
    add_latents,
    add_rounds,
    add_text_verb,
    decoding,
    latents_of,
    tell,
    translator_of,
)

HELP = "latent vectors to texts, by a trained model of both"
EXAMPLES = """examples:
  latentsmith invert runs/textlatent/laptop --latents z.npy --out texts.jsonl
  latentsmith invert runs/textlatent/laptop --latents z.npy --candidates 16 --rerank model
  latentsmith invert runs/textlatent/laptop --latents z.npy --candidates 8 --rounds 16
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_text_verb(subparsers, "invert", HELP, EXAMPLES)
    add_latents(parser, required=True, text=".npy [N, D], as the model's encoder makes them")
    add_decoding(parser)
    parser.add_argument(
        "--candidates", type=int, default=1, metavar="N", help="texts drawn for each latent (1)"
    )
    add_rounds(parser)
    parser.add_argument(
        "--rerank", choices=["model", "encoder", "none"], default="model",
        help="who says which is best: the model's own other direction, the real text encoder, or "
        "none (the surest first)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model or latents cannot be had, or do not fit."""
    from latentsmith.errors import UserError
    from latentsmith.sampling.text_latent.writing import invert

    if args.candidates < 1:
        raise UserError(f"--candidates {args.candidates}: at least 1")
    if args.rounds < 0:
        raise UserError(f"--rounds {args.rounds}: 0 or more")
    config = decoding(args, 0.7 if args.candidates > 1 or args.rounds else 0.0)
    latents, translator = latents_of(args.latents), translator_of(args.source, args.model)
    encoder = translator.made_by.build() if args.rerank == "encoder" else None
    found = invert(
        translator, latents, config,
        candidates=args.candidates, rounds=args.rounds, rerank=args.rerank, encoder=encoder,
        seed=args.seed,
    )  # fmt: skip
    tell([written.row() for written in found], args.out)
    return 0
