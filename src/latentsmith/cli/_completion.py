"""The words a command line may go on with, as a table of plain lists that shell scripts look up.

Everything is written into the script: asking Python at each press of the key would take seconds
(the settings' classes import torch). So a script knows the recipes and plug-ins of the moment it
was printed in. Keys of the table:

* ``verbs``: of the program, with its own options;
* ``VERB options``, ``VERB firsts`` (words that come without dashes), ``VERB --option`` (what the
  option may be): of each verb, ``VERB ACTION …`` where it has several;
* ``VERB of``: whose settings its ``key=value`` words are: a recipe's, or ``*``: of the recipe among
  the words typed; until there is one, ``firsts`` hold;
* ``@RECIPE``: that recipe's settings and presets.
"""

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

Table = dict[str, list[str]]
SHELLS = ("bash", "zsh", "fish")
MARK = "# TABLE"
"""Stands in the scripts where the table goes."""


def script(shell: str) -> str:
    """The completion script of a shell, with the table written in."""
    text = (Path(__file__).parent / "shells" / f"completion.{shell}").read_text()
    line = next(line for line in text.splitlines() if line.strip() == MARK)
    indent = line.removesuffix(MARK)
    row = _fish_row if shell == "fish" else _row
    rows = [row(key, words) for key, words in table().items()]
    return text.replace(line, textwrap.indent("\n".join(rows), indent))


def _row(key: str, words: list[str]) -> str:
    return f"{_quoted(key)}) echo {_quoted(' '.join(words))} ;;"


def _fish_row(key: str, words: list[str]) -> str:
    """fish does not split what a command prints at spaces, but at line ends."""
    return f"case {_quoted(key)}\n    printf '%s\\n' {' '.join(map(_quoted, words))}"


def _quoted(text: str) -> str:
    """As one word of any of the shells."""
    return "'" + text.replace("'", "") + "'"


def table() -> Table:
    """The whole table."""
    from latentsmith.cli._main import Parser, add_verb, verbs
    from latentsmith.recipes.base import RECIPES

    subparsers = Parser(prog="latentsmith").add_subparsers()
    for verb in verbs():
        add_verb(verb, subparsers)
    found = {"verbs": [*verbs(), "--help", "--version"]}
    for verb in verbs():
        found |= _of_parser(verb, subparsers.choices[verb])
    for recipe in RECIPES.names():
        found[f"@{recipe}"] = list(_of_recipe(recipe))
    for what in ("settings", "presets"):  # words of `list`, but followed by a recipe like actions
        found |= {f"list {what} {key}": found[f"doctor {key}"] for key in ("options", "firsts")}
    found["list settings of"] = ["*"]
    return {key: words for key, words in found.items() if words}


def _of_parser(key: str, parser: argparse.ArgumentParser) -> Table:
    found: Table = {f"{key} options": [], f"{key} firsts": [], f"{key} of": []}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found[f"{key} firsts"] += action.choices
            for name, below in action.choices.items():
                found |= _of_parser(f"{key} {name}", below)
        elif action.option_strings:
            names = [name for name in action.option_strings if name.startswith("--")]
            found[f"{key} options"] += names
            if action.choices:
                found |= {f"{key} {name}": list(map(str, action.choices)) for name in names}
        else:
            found[f"{key} firsts"] += _firsts(action)
            found[f"{key} of"] += _recipe_of(key.split()[0], parser, action)
    return found


def _firsts(action: argparse.Action) -> list[str]:
    """What a word without dashes may be, where there is a list of it."""
    from latentsmith.cli.list import WHAT
    from latentsmith.recipes.base import RECIPES

    if action.metavar == "RECIPE":
        return RECIPES.names()
    if action.metavar == "RECIPE.STAGE":
        return [f"{recipe}.{stage}" for recipe in RECIPES.names() for stage in _stages(recipe)]
    if action.metavar == "WHAT":
        return WHAT
    return list(map(str, action.choices or []))


def _stages(recipe: str) -> list[str]:
    """Names of the stages; none of a recipe that must be told something first."""
    from latentsmith.config.compose import compose
    from latentsmith.errors import UserError

    try:
        return [stage.name for stage in compose(recipe).stages()]
    except UserError:
        return []


def _recipe_of(verb: str, parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """Whose settings an argument takes, if it takes any: its help names the recipe, else a word
    before it, else it is the verb's own."""
    from latentsmith.recipes.base import RECIPES

    if action.metavar != "KEY=VALUE":
        return []
    told = re.search(r"list settings (\w+)'", action.help or "")
    if told:
        return [told[1]]
    takes_recipe = any(str(a.dest) in ("recipe", "stage") for a in parser._actions)
    if takes_recipe:
        return ["*"]
    return [verb] if verb in RECIPES.names() else []


def _of_recipe(recipe: str) -> Iterator[str]:
    """``scale=smoke``, ``loss=pearson``, ``train.lr=`` …, those of every choice included."""
    from latentsmith.config.compose import nodes_of
    from latentsmith.config.fields import settings_of

    nodes = nodes_of(recipe)
    words = dict.fromkeys(
        f"{group}={name}" for group in nodes.global_groups() for name in nodes.presets_of(group)
    )
    words |= dict.fromkeys(_settings(nodes, settings_of(nodes.config), "", depth=0))
    yield from words


def _settings(nodes: Any, settings: dict[str, Any], prefix: str, depth: int) -> Iterator[str]:
    from latentsmith.config.fields import settings_of
    from latentsmith.config.nodes import group_of

    for name, setting in settings.items():
        path = prefix + name
        if name == "kind" or setting.mapping:
            continue
        if setting.registry is not None:
            names = nodes.option_names(group_of(setting.registry))
            yield from (f"{path}={name}" for name in names)
            if depth < 2:  # an encoder in an encoder in a loss is typed by hand
                for entry in setting.registry:
                    yield from _settings(nodes, settings_of(entry.config), f"{path}.", depth + 1)
        elif setting.section is not None:
            yield from _settings(nodes, settings_of(setting.section), f"{path}.", depth)
        else:
            values = list(_values(setting.hint))
            yield from (f"{path}={value}" for value in values)
            if not values:
                yield f"{path}="


def _values(hint: Any) -> Iterator[str]:
    """All values of a setting that has but a few."""
    if hint is bool:
        yield from ("true", "false")
    elif get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif get_origin(hint) not in (list, tuple, dict):
        for part in get_args(hint):  # Annotated[…], … | None
            if get_origin(part) is Literal or part is bool:
                yield from _values(part)
