"""``latentsmith cache …``: what a model makes of a dataset, computed once and kept with proof."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from latentsmith.cli._models import is_run, kept, model_of_run
from latentsmith.cli._pipeline import prepare

log = logging.getLogger(__name__)

HELP = "compute latents, tokens, vectors, texts or reconstructions once; look at such stores"
EXAMPLES = """The same command goes on where it was stopped, and does nothing when all is there.

examples:
  latentsmith cache latents stabilityai/sd-vae-ft-mse data=image_folder data.folder=photos
  latentsmith cache latents runs/mmreg/laptop latents.flip=true
  latentsmith cache tokens encoder=dinov2 data=image_folder data.folder=photos dtype=int8
  latentsmith cache vectors encoder=efficientnet_lite0 data=fashion_mnist split=val
  latentsmith cache text text_encoder=minilm data=shapes
  latentsmith cache text text_encoder=clip_text data=digits --template 'a photo of a {}'
  latentsmith cache reconstructions MODEL encoder=inception data=image_folder data.folder=photos
  latentsmith cache verify STORE
  latentsmith cache copy STORE s3://bucket/latents
  torchrun --nproc-per-node 8 -m latentsmith cache latents MODEL data=DATASET
"""
MAKES = {
    "latents": "an autoencoder's latents of every image",
    "tokens": "an image encoder's tokens (a teacher's)",
    "vectors": "an image encoder's vectors",
    "text": "a text encoder's embeddings, every different text once",
    "reconstructions": "an autoencoder's errors on every image, for `measure reconstructions=…`",
}
OF_AUTOENCODERS = ("latents", "reconstructions")


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "cache", help=HELP, description=HELP, epilog=EXAMPLES
    )
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for what in MAKES:
        _add_make(verbs, what)
    text = "read every byte: complete, undamaged, finite, of the stated norms; 1 when not"
    verify = verbs.add_parser("verify", help=text, description=text)
    verify.add_argument("stores", nargs="+", type=_place, metavar="STORE")
    verify.set_defaults(run=run_verify)
    text = "print what a store holds, what made it, and its first samples"
    inspect = verbs.add_parser("inspect", help=text, description=text)
    inspect.add_argument("store", type=_place, metavar="STORE")
    inspect.set_defaults(run=run_inspect)
    text = "copy a store into the other format"
    convert = verbs.add_parser("convert", help=text, description=text)
    convert.add_argument("store", type=Path, metavar="STORE")
    convert.add_argument("out", type=Path, metavar="OUT")
    convert.add_argument("--to", choices=("lmdb", "shards"), required=True)
    convert.set_defaults(run=run_convert)
    text = "copy a store between folders and URLs (s3://, gs://, hf://, …); it goes on if stopped"
    copy = verbs.add_parser("copy", help=text, description=text)
    copy.add_argument("store", metavar="STORE")
    copy.add_argument("out", metavar="OUT")
    copy.set_defaults(run=run_copy)


def _place(text: str) -> Path | str:
    """A folder, or a URL as it is."""
    from latentsmith.stores.remote.place import is_url

    return text if is_url(text) else Path(text)


def _add_make(verbs: Any, what: str) -> None:
    parser = verbs.add_parser(what, help=MAKES[what], description=f"Store {MAKES[what]}.")
    if what in OF_AUTOENCODERS:
        parser.add_argument(
            "source", metavar="SOURCE", help="autoencoder: hub id, folder in diffusers format, run"
        )
        parser.add_argument(
            "--model", metavar="STAGE", help="of a run: which stage's model (the last)"
        )
    if what == "text":
        parser.add_argument(
            "--texts", type=Path, metavar="FILE", help="one text a line, instead of a dataset"
        )
        parser.add_argument(
            "--template", metavar="TEXT", help="class names in the place of {}, instead of captions"
        )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings: latentsmith list settings cache",
    )
    parser.add_argument(
        "--out", type=Path, metavar="STORE", help="where (default: the cache, by its digest)"
    )
    parser.set_defaults(run=run_make)


def run_make(args: argparse.Namespace) -> int:
    """Raises UserError for settings that do not work, models or data that cannot be had, values
    that cannot be stored, and a place that is taken."""
    from latentsmith.config.compose import compose

    config: Any = compose("cache", settings(args))
    prepare()
    config.make(args.out)
    return 0


def settings(args: argparse.Namespace) -> list[str]:
    """The line as settings of the cache recipe. Raises UserError for a run without a model."""
    return [*_words(args), *args.overrides]


def _words(args: argparse.Namespace) -> list[str]:
    """What the line says beside its settings, as settings."""
    words = [f"what={args.action}"]
    if args.action == "text" and args.texts is not None:
        words.append(f"text.texts={json.dumps(str(args.texts))}")
    if args.action == "text" and args.template is not None:
        words.append(f"text.template={json.dumps(args.template, ensure_ascii=False)}")
    if args.action not in OF_AUTOENCODERS:
        return words
    if not is_run(args.source, args.model):
        return [*words, f"autoencoder.source={json.dumps(args.source)}"]
    compared = ("encoder",) if args.action == "reconstructions" else ()
    sections = ("data", "transform", *compared)
    source, inherited, _ = model_of_run(Path(args.source), args.model, sections)
    words += [f"autoencoder.source={json.dumps(source)}", *kept(inherited, args.overrides)]
    if 'transform.crop="random"' in inherited:
        words.append("transform.crop=center")
    if "transform.flip=true" in inherited:
        words.append("transform.flip=false")
        log.info("the run trains with mirrored images too: latents.flip=true keeps both ways")
    return words


def run_inspect(args: argparse.Namespace) -> int:
    """Raises UserError when there is no finished store."""
    from latentsmith.stores.base import open_store
    from latentsmith.stores.describe import inspect

    print(inspect(open_store(args.store)))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """1 when a store is not what it says; raises UserError where there is none at all."""
    from latentsmith.stores.texts import check_texts
    from latentsmith.stores.verify import verify_store
    from latentsmith.utils.counter import Counter

    wrong = 0
    for path in args.stores:
        with Counter(f"verifying {path}", _rows(path)) as count:
            found = verify_store(path, progress=lambda done, _, count=count: count(done))
        if found.ok:
            found.problems += check_texts(path)
        unreadable = f", {found.unreadable:,} unreadable" if found.unreadable else ""
        print(f"{path}: {'good' if found.ok else 'WRONG'}, {found.rows:,} rows{unreadable}")
        print(*(f"  {problem}\n" for problem in found.problems), sep="", end="")
        wrong += not found.ok
    return 1 if wrong else 0


def run_convert(args: argparse.Namespace) -> int:
    """Raises UserError when there is no finished store, or OUT holds something else."""
    from latentsmith.stores.convert import convert_store
    from latentsmith.stores.describe import describe
    from latentsmith.stores.texts import copy_texts

    store = convert_store(args.store, args.out, args.to)
    copy_texts(args.store, args.out)
    print(describe(store.manifest), store.path, sep="\n")
    return 0


def run_copy(args: argparse.Namespace) -> int:
    """Raises UserError when there is no finished store of shards, OUT holds another, or a place
    cannot be reached."""
    from latentsmith.stores.remote.transfer import transfer

    print(f"{args.out}: {transfer(args.store, args.out)} files copied")
    return 0


def _rows(path: Path | str) -> int:
    """How many rows a store has; 0 where it cannot be opened."""
    from latentsmith.errors import UserError
    from latentsmith.stores.base import open_store

    try:
        return len(open_store(path))
    except UserError:
        return 0
