"""What ``edit``, ``variation`` and ``inpaint`` share: images in, recipe ``edit``, results out."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentsmith.cli._models import crop_of_run, generator_of, is_run, kept
from latentsmith.cli._pipeline import add_settings, carry_out
from latentsmith.cli._texts import quoted


def add_verb(subparsers: Any, verb: str, about: str, examples: str) -> argparse.ArgumentParser:
    """The verb's parser, with what all three take."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        verb, help=about, description=about, epilog=examples
    )
    parser.add_argument("source", metavar="SOURCE", help="run, or folder of a saved generator")
    add_settings(parser, "edit")
    parser.add_argument(
        "--image",
        action="append",
        metavar="PATH",
        help="image file of any size, or folder of such; several: give it again",
    )
    parser.add_argument(
        "--model", metavar="STAGE", help="of a run: which stage's generator (the last)"
    )
    return parser


def carry_out_verb(
    args: argparse.Namespace, task: str, options: Sequence[str], *, guidance: str | None = None
) -> int:
    """Run the recipe ``edit``.

    Args:
        options: the verb's own options as settings.
        guidance: the kind the verb wants, instead of the run's.

    Raises:
        UserError: there is no generator, or settings do not fit it.
    """
    source, inherited, name = generator_of(args.source, args.model)
    if is_run(args.source):
        inherited = [*inherited, *crop_of_run(Path(args.source))]
    if guidance is not None:
        of_run = [word for word in inherited if word.startswith("guidance")]
        if f"guidance={guidance}" not in of_run:
            inherited = [word for word in inherited if word not in of_run]
            inherited.append(f"guidance={guidance}")
    inherited = kept(inherited, args.overrides)
    images = ",".join(quoted(path) for path in args.image or [])
    args.overrides += [*([f"images=[{images}]"] if images else []), *options]
    given = {word.partition("=")[0] for word in args.overrides}
    # required by the settings: an empty list lets them say how images are given
    none = [] if "images" in given else ["images=[]"]
    words = [f"generator={quoted(source)}", f"task={task}", *inherited, *none]
    return carry_out("edit", [*words, *args.overrides], f"{task}-{name}", args)


def option(setting: str, value: object) -> list[str]:
    """An option as a setting; not given: no setting."""
    if value is None:
        return []
    return [f"{setting}={quoted(str(value)) if isinstance(value, str | Path) else value}"]
