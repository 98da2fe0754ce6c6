"""Configs on disk: YAML out, an equal object back, and the differences between two."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from latentsmith.config import errors
from latentsmith.config.schema import adapter
from latentsmith.errors import UserError
from latentsmith.recipes.base import RECIPES, RecipeConfig


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (paths as strings, tuples as lists)."""
    return adapter(type(config)).dump_python(config, mode="json", warnings=False)


def to_yaml(config: Any) -> str:
    """Every setting, resolved. `from_yaml` gives an equal object back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=100)


def from_yaml(text: str, *, where: str | Path = "the saved settings") -> RecipeConfig:
    """The config `to_yaml` wrote; ``kind`` names the recipe.

    Raises:
        UserError: the text is not YAML, names no known recipe, or does not fit this version.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(values, dict) or "kind" not in values:
        raise UserError(f"{where} holds no recipe settings (no 'kind').")
    config = RECIPES[str(values["kind"])].config
    try:
        return adapter(config).validate_python(values)
    except ValidationError as error:
        problems = errors.explain(error, config, values, [])
        raise UserError(
            f"{where} does not fit this version of latentsmith; "
            + errors.listing(str(values["kind"]), problems)
        ) from None


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts → ``{"a.b": value}``. Empty dicts stay as values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


ABSENT = "(absent)"
"""What `diff` shows for a key only one side has."""


def diff(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every setting that differs between two configs."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    return [
        (key, a.get(key, ABSENT), b.get(key, ABSENT))
        for key in {**a, **b}
        if a.get(key, ABSENT) != b.get(key, ABSENT)
    ]
