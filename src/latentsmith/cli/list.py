"""``latentsmith list``: what there is to choose from."""

import argparse
import fnmatch
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
EXAMPLES = """examples:
  latentsmith list losses
  latentsmith list 'loss*'
  latentsmith list losses 's*'
  latentsmith list '*dino*'
  latentsmith list --search cosine
  latentsmith list settings mmreg scale=laptop --search resolution
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "list", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="WHAT",
        help=f"one of: {', '.join(WHAT)} (default: all names); with * or ?, the kinds that match, "
        "else the names",
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="NAME",
        help="recipe, for 'settings' and 'presets'; else a name, * and ? allowed",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for 'settings'")
    parser.add_argument(
        "--search",
        metavar="TEXT",
        help="only what has all these words in its name or help, upper or lower case",
    )
    parser.set_defaults(run=show)


def show(args: argparse.Namespace) -> None:
    """Print. Raises UserError for an unknown kind of thing or recipe, or where nothing fits."""
    from latentsmith.errors import UserError, nearest

    if args.what == "settings":
        _settings(args)
        return
    kinds, pattern = WHAT[:-1], None
    if args.what is not None and not _is_pattern(args.what):
        if args.what not in WHAT:
            raise UserError(f"nothing called {args.what!r} to list. {nearest(args.what, WHAT)}")
        kinds = [args.what]
    elif args.what is not None:
        matched = fnmatch.filter(kinds, args.what)
        kinds, pattern = (matched, None) if matched else (kinds, args.what)
    found = {what: _rows(what, args.recipe if what == "presets" else None) for what in kinds}
    if args.recipe is not None and args.what != "presets":
        pattern = args.recipe
        _refuse_unknown(pattern, [name for rows in found.values() for name, _ in rows])
    found = {what: _fitting(rows, pattern, args.search) for what, rows in found.items()}
    shown = {what: rows for what, rows in found.items() if rows}
    if not shown:
        asked = [repr(word) for word in (args.what, args.recipe, args.search) if word]
        raise UserError(f"nothing fits {' and '.join(asked)}")
    if len(kinds) == 1:
        _print_rows(next(iter(shown.values())))
        return
    for what, rows in shown.items():
        print(f"{what}:")
        _print_rows(rows, indent="  ")


def _settings(args: argparse.Namespace) -> None:
    from latentsmith.config.help import settings_help
    from latentsmith.errors import UserError

    if args.recipe is None:
        raise UserError("settings of which recipe? latentsmith list settings RECIPE")
    text = settings_help(args.recipe, args.overrides)
    if args.search is not None:
        head, *parts = text.split("\n\n")
        fitting = [part for part in parts if _has(part, args.search)]
        if not fitting:
            raise UserError(f"no setting of {args.recipe} fits {args.search!r}")
        text = "\n\n".join([head, *fitting])
    print(text)


def _is_pattern(text: str) -> bool:
    return bool(set(text) & set("*?["))


def _refuse_unknown(name: str, known: list[str]) -> None:
    from latentsmith.errors import UserError, nearest

    if not _is_pattern(name) and name not in known:
        raise UserError(f"nothing called {name!r} to list. {nearest(name, known)}")


def _fitting(
    rows: list[tuple[str, str]], pattern: str | None, search: str | None
) -> list[tuple[str, str]]:
    """Rows whose name fits the pattern and that have the words that are searched for."""
    return [
        (name, text)
        for name, text in rows
        if (pattern is None or fnmatch.fnmatchcase(name, pattern))
        and (search is None or _has(f"{name} {text}", search))
    ]


def _has(text: str, words: str) -> bool:
    return all(word in text.lower() for word in words.lower().split())


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
