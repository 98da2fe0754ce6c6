"""Sweeps that are lists and no grids: rows of settings with names, of a recipe's own making.

``presets/_sweeps/NAME.yaml`` beside the recipe (the underscore: it is no group of settings):

    seeds: [0, 1, 2]
    common: [scale=laptop, …]                what all rows are given, before their own
    rows: {name: [key=value, …], …}
    against: {name: [name, …], …}            what a row is compared with

Each row is run under each seed, with ``label=name`` and ``against=[…]`` for the recipe's table.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latentsmith.config.compose import nodes_of
from latentsmith.errors import UserError, nearest

FOLDER = "_sweeps"
PRESET, ONLY = "preset", "only"
"""Words that choose a list, and of its rows those whose names begin so."""


@dataclass(frozen=True)
class Listed:
    """The runs of a list.

    Attributes:
        words: of each run.
        names: of their folders.
    """

    words: list[list[str]]
    names: list[str]


def listed(recipe: str, overrides: Sequence[str]) -> Listed | None:
    """The runs that ``preset=NAME`` among the overrides stands for; None without it.

    The other overrides go to all rows and win; a ``seed=3`` or ``seed=0,1`` replaces the list's
    seeds; ``only=A6,B`` keeps the rows whose names begin so.

    Raises:
        UserError: there is no such list or row, or it is damaged.
    """
    given: dict[str, str] = {}
    for word in overrides:
        given[word.partition("=")[0]] = word.partition("=")[2]
    if PRESET not in given:
        return None
    value = _read(recipe, given[PRESET])
    rows: dict[str, list[str]] = value["rows"]
    kept = _kept(rows, given.get(ONLY))
    own = [w for w in overrides if w.partition("=")[0] not in (PRESET, ONLY, "seed")]
    seeds = _seeds(given["seed"]) if "seed" in given else value["seeds"]
    words, names = [], []
    for seed in seeds:  # outermost: a sweep that is stopped leaves whole tables of fewer seeds
        for name in kept:
            # a comparison with what is not run would be empty
            against = [other for other in value.get("against", {}).get(name, []) if other in kept]
            told = [f"label={json.dumps(name)}", f"against={json.dumps(against)}"]
            words.append([*value["common"], *rows[name], *told, f"seed={seed}", *own])
            plain = re.sub(r"[^\w+%-]+", "_", name)
            names.append(f"{len(names):03}-{plain}-seed{seed}")
    return Listed(words, names)


def _read(recipe: str, name: str) -> dict[str, Any]:
    folder = nodes_of(recipe).presets / FOLDER
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"recipe {recipe} has no list of runs {name!r} to sweep over. "
            + (nearest(name, known) if known else "It has none at all: name settings instead")
        )
    file: Path = folder / f"{name}.yaml"
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    against: dict[str, list[str]] = value.get("against", {})
    named = {*against, *(other for others in against.values() for other in others)}
    strange = sorted(named - set(value["rows"]))
    if strange:
        raise ValueError(f"{file}: against names rows that are not there: {strange}")
    return value


def _kept(rows: dict[str, list[str]], only: str | None) -> list[str]:
    if only is None:
        return list(rows)
    starts = [start.strip() for start in only.strip("[]").split(",")]
    for start in starts:
        if not any(name.startswith(start) for name in rows):
            first = sorted({name.split()[0] for name in rows})
            raise UserError(f"{ONLY}={only}: no row begins with {start!r}. {nearest(start, first)}")
    return [name for name in rows if any(name.startswith(start) for start in starts)]


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.strip("[]").split(",")]
    except ValueError as error:
        raise UserError(f"seed={text}: give numbers with commas, e.g. seed=0,1,2") from error
