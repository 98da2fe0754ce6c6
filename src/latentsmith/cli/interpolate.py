"""``latentsmith interpolate SOURCE``: what lies between two images, two noises or two prompts."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from latentsmith.cli._models import generator_of, is_run, kept, model_of_run, stages_of
from latentsmith.cli._pipeline import add_settings, carry_out
from latentsmith.cli._textlatent import is_translator
from latentsmith.cli._texts import add_prompts, prompt_words

log = logging.getLogger(__name__)

HELP = "paths between pairs of images, or of a generator's noises or prompts, as a grid and files"
EXAMPLES = """examples:
  latentsmith interpolate runs/mmreg/laptop
  latentsmith interpolate runs/mmreg/laptop --model baseline pairs=8 path=slerp
  latentsmith interpolate runs/mmreg/laptop --model generator-regularized
  latentsmith interpolate runs/psvae/laptop --model dit --prompt "a small blue ring"
  latentsmith interpolate runs/urepa/laptop --prompt "a photo of a boot" --prompt "a photo of a bag"
  latentsmith interpolate stabilityai/sd-vae-ft-mse images=[a.png,b.png] transform.resolution=256

Of a run without --model: between images, by its last autoencoder; with prompts or labels, by its
last generator. One prompt: paths between noises, all of which show it. An even number of prompts: a
path from the first to the second, from the third to the fourth ..., each from one noise.
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
    add_prompts(parser)
    parser.add_argument(
        "--model",
        metavar="STAGE",
        help="of a run: which stage's autoencoder (between images) or generator (between noises or "
        "prompts); those it has are told",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no such model, or settings do not fit it."""
    args.overrides += prompt_words(args.prompt, args.prompts)
    told = any(word.partition("=")[0] in ("prompts", "labels") for word in args.overrides)
    words, name = _source(args.source, args.model, told=told)
    return carry_out("interpolate", [*kept(words, args.overrides), *args.overrides], name, args)


def _source(source: str, stage: str | None, *, told: bool) -> tuple[list[str], str]:
    """The source as settings, and what to call it.

    Args:
        told: there are prompts or labels, which only generators are told.
    """
    path = Path(source)
    run = is_run(source, stage)
    if _by_generator(path, stage, told=told) if run else (path / "generator.json").is_file():
        folder, words, name = generator_of(source, stage)
        return [f"generator={json.dumps(folder)}", *words], name
    model, words, name = source, [], path.name
    if run:
        model, words, stage = model_of_run(path, stage, ("data", "transform"))
        name = f"{name}-{stage}"
    _refuse_texts(source, model)
    return [f"autoencoder.source={json.dumps(model)}", *words], name


def _by_generator(path: Path, stage: str | None, *, told: bool) -> bool:
    """Whether the generator of a run's stage is meant, and not its autoencoder. Raises UserError
    for a stage that has neither."""
    from latentsmith.errors import UserError

    generators, models = stages_of(path)
    if stage is None:
        if generators and not told:
            log.info("between images; --model %s: between noises", " or ".join(generators))
        return told
    if stage not in (*generators, *models):
        of = {"Generators": generators, "Autoencoders": models}
        known = [f"{what}: {', '.join(names) or 'none yet'}" for what, names in of.items()]
        raise UserError(
            f"{path} has no generator and no autoencoder of stage {stage!r}. {'. '.join(known)}"
        )
    return told or stage in generators


def _refuse_texts(source: str, model: str) -> None:
    """Raises UserError for a model of texts and latents."""
    from latentsmith.errors import UserError

    if is_translator(model):
        raise UserError(
            f"{source} holds a model of texts and latents: there are no images to walk between. "
            "latentsmith encode and invert go from texts to latents and back"
        )
