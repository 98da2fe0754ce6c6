"""``latentsmith list``: what there is to choose from."""

import argparse
from typing import Any

WHAT = [
    "recipes",
    "presets",
    "encoders",
    "text_encoders",
    "losses",
    "datasets",
    "metrics",
    "projectors",
    "backbones",
    "mixers",
    "decoders",
    "scans",
    "corpora",
    "samplers",
    "guidance",
    "settings",
]
HELP = f"list {', '.join(WHAT[:-1])} or a recipe's settings"


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("list", help=HELP, description=HELP)
    parser.add_argument(
        "what", nargs="?", metavar="WHAT", help=f"one of: {', '.join(WHAT)} (default: all names)"
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="for 'settings' and 'presets'")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for 'settings'")
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> None:
    """Print. Raises UserError for an unknown kind of thing or recipe."""
    from latentsmith.errors import UserError, nearest

    if args.what is None:
        for what in WHAT[:-1]:
            print(f"{what}:")
            _print_rows(_rows(what, None), indent="  ")
        return
    if args.what not in WHAT:
        raise UserError(f"nothing called {args.what!r} to list. {nearest(args.what, WHAT)}")
    if args.what == "settings":
        from latentsmith.config.help import settings_help

        if args.recipe is None:
            raise UserError("settings of which recipe? latentsmith list settings RECIPE")
        print(settings_help(args.recipe, args.overrides))
        return
    if args.recipe is not None and args.what != "presets":
        raise UserError(f"'list {args.what}' takes nothing more, got {args.recipe!r}.")
    _print_rows(_rows(args.what, args.recipe))


def _rows(what: str, recipe: str | None) -> list[tuple[str, str]]:
    """(name, one-line help) of each thing."""
    from latentsmith.autoencoders.field.decoders import DECODERS
    from latentsmith.autoencoders.projectors import PROJECTORS
    from latentsmith.backbones.base import BACKBONES
    from latentsmith.backbones.mixers import MIXERS
    from latentsmith.backbones.scan import SCAN_BACKENDS
    from latentsmith.data.base import DATASETS
    from latentsmith.data.text.base import CORPORA
    from latentsmith.encoders.base import ENCODERS
    from latentsmith.encoders.text.base import TEXT_ENCODERS
    from latentsmith.losses.base import LOSSES
    from latentsmith.metrics.registry import METRICS
    from latentsmith.recipes.base import RECIPES
    from latentsmith.sampling.guidance import GUIDANCE
    from latentsmith.sampling.samplers import SAMPLERS

    if what == "presets":
        return _presets(RECIPES.names() if recipe is None else [recipe])
    registries: dict[str, Any] = {
        "recipes": RECIPES,
        "encoders": ENCODERS,
        "text_encoders": TEXT_ENCODERS,
        "losses": LOSSES,
        "datasets": DATASETS,
        "projectors": PROJECTORS,
        "backbones": BACKBONES,
        "mixers": MIXERS,
        "decoders": DECODERS,
        "scans": SCAN_BACKENDS,
        "corpora": CORPORA,
        "samplers": SAMPLERS,
        "guidance": GUIDANCE,
        "metrics": METRICS,
    }
    return [(entry.name, entry.help) for entry in registries[what]]


def _presets(recipes: list[str]) -> list[tuple[str, str]]:
    """``recipe group=name`` with the first comment line of the preset's file."""
    from latentsmith.config.compose import nodes_of

    rows = []
    for recipe in recipes:
        nodes = nodes_of(recipe)
        for group in [*nodes.registries, *nodes.global_groups()]:
            rows += [
                (f"{recipe} {group}={name}", nodes.preset_help(group, name))
                for name in nodes.presets_of(group)
            ]
    return rows


def _print_rows(rows: list[tuple[str, str]], indent: str = "") -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{indent}{name:{width}}  {text}".rstrip())
