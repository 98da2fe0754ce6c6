"""``latentsmith infill RUN --texts FILE``: gaps in texts filled in."""

import argparse
from typing import Any

from latentsmith.cli._textlatent import (
    add_decoding,
    add_latents,
    add_text_verb,
    add_texts,
    decoding,
    latents_of,
    tell,
    texts_of,
    translator_of,
)

HELP = "texts with [MASK] for each missing token, filled in; by a latent where one is given"
EXAMPLES = """examples:
  latentsmith infill runs/textlatent/laptop --texts gaps.txt
  latentsmith infill runs/textlatent/laptop --texts gaps.txt --latents z.npy --out filled.jsonl
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser = add_text_verb(subparsers, "infill", HELP, EXAMPLES)
    add_texts(parser)
    add_latents(parser, required=False, text=".npy [N, D], what each text is to say (nothing)")
    add_decoding(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when model, texts or latents cannot be had, or do not fit."""
    from latentsmith.sampling.text_latent.writing import infill

    config, texts = decoding(args), texts_of(args.texts, args.field)
    latents = None if args.latents is None else latents_of(args.latents)
    translator = translator_of(args.source, args.model)
    found = infill(translator, texts, config, latents=latents, seed=args.seed)
    rows = zip(texts, found, strict=True)
    tell([{"given": given, "text": text} for given, text in rows], args.out)
    return 0
