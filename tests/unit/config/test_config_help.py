"""Help is read from the source: every setting, its default, what it may be, its docstring."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from latentsmith.config.fields import field_help, settings_of
from latentsmith.config.help import describe, settings_help
from latentsmith.recipes.base import RECIPES


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "integer"),
        (Annotated[int, Field(gt=0)], "integer > 0"),
        (Annotated[float, Field(ge=0, lt=1)] | None, "number >= 0 and < 1 or null"),
        (Annotated[int, Field(multiple_of=14)], "integer multiple of 14"),
        (Literal["a", "b"], "a or b"),
        (list[int], "list of integer"),
        (tuple[float, float], "[number, number]"),
        (Path | None, "path or null"),
        (bool, "true or false"),
        (int | str, "integer or text"),
        (dict[str, int], "mapping of integer"),
    ],
)
def test_types_in_words(hint, words):
    assert describe(hint) == words


def test_the_text_names_everything_there_is_to_set(toy):
    text = settings_help("toy")
    assert "engine=steam  (engine: diesel, loaded, steam)\n    What drives." in text
    assert "pretrain.lr=0.0003  (number > 0)\n    Learning rate." in text
    assert "scale=  one of: laptop, smoke" in text
    assert "more.rival.injection=direct  (direct or chamber)" in text
    assert "seed=0  (integer)\n    Seeds every random stream of the run." in text  # inherited
    assert "spare=null" in text


def test_overrides_show_in_the_defaults(toy):
    text = settings_help("toy", ["engine=loaded", "scale=smoke"])
    assert "engine.fuel=required  (path)\n    Folder of the fuel." in text
    assert "pretrain.samples=10" in text
    assert "engine.pressure" not in text


def _sections(config: type, seen: set[type]) -> set[type]:
    """Every config class reachable from a recipe."""
    if config in seen:
        return seen
    seen.add(config)
    for setting in settings_of(config).values():
        if setting.registry is not None:
            for entry in setting.registry:
                _sections(entry.config, seen)
        elif setting.section is not None:
            _sections(setting.section, seen)
    return seen


def test_every_setting_of_every_recipe_has_help():
    classes: set[type] = set()
    for entry in RECIPES:
        _sections(entry.config, classes)
    missing = [
        f"{cls.__name__}.{name}"
        for cls in classes
        for name in settings_of(cls)
        if name != "kind" and not field_help(cls).get(name)
    ]
    assert missing == []
