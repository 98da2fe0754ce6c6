"""Recipe name + overrides → one checked, typed config.

``compose("mmreg", ["scale=laptop", "encoder=dinov2", "loss.weight=0.3"])``

Order, later wins: defaults of the config classes, the recipe's ``config.yaml``, preset groups
(``scale`` then ``experiment`` last), ``key=value`` overrides. Beyond Hydra's own syntax:

* a choice anywhere is picked by its dotted path (``more_references.pca=pixel_pca`` means
  ``+encoder@more_references.pca=pixel_pca``), and ``path=null`` takes an optional one away;
* new entries of dict settings need no ``+``;
* ``when: {loss=pearson: {weight: 0.1}}`` in a preset holds for that option of the choice only;
* what a preset sets *inside* a choice belongs to the option it chose: with ``scale=laptop
  encoder=dinov2`` DINOv2 does not get the resolution that the scale gave its own encoder. Settings
  that every kind of the family has (a loss's ``weight``) stay.
"""

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from pydantic import ValidationError

from latentsmith.config import errors, tree
from latentsmith.config.fields import choice_at, locate, settings_of
from latentsmith.config.nodes import Choice, Nodes, group_of
from latentsmith.config.schema import adapter
from latentsmith.errors import UserError
from latentsmith.recipes.base import RECIPES, RecipeConfig


@dataclass(frozen=True)
class Given:
    """One override of the user's, understood."""

    text: str
    """As typed."""
    key: str
    """Dotted path, or group, without ``+`` or ``~``."""
    value: Any = None
    """As Hydra's parser read it."""
    choice: Choice | None = None
    """Set when it picks an option of a group."""
    delete: bool = False


def compose(recipe: str, overrides: list[str] | tuple[str, ...] = ()) -> RecipeConfig:
    """The checked config of a run.

    Args:
        recipe: registered recipe name.
        overrides: ``key=value`` strings, see the module's docstring.

    Raises:
        UserError: naming every problem found, each with its dotted path and what would be right.
    """
    nodes = nodes_of(recipe)
    values, problems = _compose_values(nodes, overrides)
    values.setdefault("kind", recipe)
    checked = adapter(nodes.config)
    try:
        config = checked.validate_python(values)
    except ValidationError as error:
        problems += errors.explain(error, nodes.config, values, problems)
    except UserError as error:  # from a __post_init__
        problems.append(str(error))
    if problems:
        raise UserError(errors.listing(recipe, problems))
    return config


def check(config: RecipeConfig) -> RecipeConfig:
    """Validate a config built in Python; the checked copy.

    Raises:
        UserError: as `compose`.
    """
    checked = adapter(type(config))
    values = checked.dump_python(config, warnings=False)
    try:
        return checked.validate_python(values)
    except ValidationError as error:
        problems = errors.explain(error, type(config), values, [])
        raise UserError(errors.listing(config.kind, problems)) from None


def outline(recipe: str, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The composed values before they are checked; what is still required is absent.

    Raises:
        UserError: an override is unreadable, or names nothing.
    """
    values, problems = _compose_values(nodes_of(recipe), overrides)
    if problems:
        raise UserError(errors.listing(recipe, problems))
    return values


def choices_of(recipe: str, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, str | None]:
    """What each group stands at: ``{"scale": "laptop", "encoder": "dinov2", …}``."""
    nodes = nodes_of(recipe)
    lines, _ = _pick(nodes, _understand(nodes, overrides, []))
    return tree.compose_tree(nodes, lines).choices


def nodes_of(recipe: str) -> Nodes:
    """Groups, choices and defaults of a recipe. Raises UserError for an unknown name."""
    config = RECIPES[recipe].config
    return _nodes(config, Path(inspect.getfile(config)).parent / "presets")


@functools.lru_cache(maxsize=16)
def _nodes(config: type, presets: Path) -> Nodes:
    return Nodes(config, presets)


def _compose_values(
    nodes: Nodes, overrides: list[str] | tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """(values, problems with the overrides, which were then left out)."""
    problems: list[str] = []
    given = _understand(nodes, overrides, problems)
    lines, swapped = _pick(nodes, given)
    config = tree.changeable(tree.compose_tree(nodes, lines))
    for choice in swapped:
        _forget_old_option(nodes, config, choice)
    _apply_when(nodes.config, config)
    values = tree.plain(config)
    for g in given:
        if g.choice is None and _check(nodes, g, values, problems):
            if g.delete:
                tree.remove(config, g.key.partition("@")[2] or g.key)
            else:
                tree.put(config, g.key, g.value)
        elif g.choice is not None and g.choice.option is None:
            _put_null(nodes, config, values, g.choice.path)
    return tree.plain(config), problems


def _understand(
    nodes: Nodes, overrides: list[str] | tuple[str, ...], problems: list[str]
) -> list[Given]:
    """Parse every override; those that cannot be used become problems."""
    found = []
    groups = {*nodes.registries, *nodes.global_groups()}
    words, unreadable = errors.readable_words(overrides)
    problems += unreadable
    for text in words:
        calls = errors.calls_resolver(text)
        if calls is not None:
            problems.append(calls)
            continue
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            problems.append(errors.unreadable(text, str(error)))
            continue
        if override.is_sweep_override():
            problems.append(errors.sweep_in_run(text))
            continue
        given = _one(nodes, groups, override, text)
        bad = None if given.choice is None else errors.bad_choice(given.choice, given.key, nodes)
        if bad is None:
            found.append(given)
        else:
            problems.append(bad)
    return found


def _one(nodes: Nodes, groups: set[str], override: Override, text: str) -> Given:
    key, value = override.key_or_group, override.value()
    option = value if isinstance(value, str) else None
    pick = option is not None or value is None
    if override.is_delete():
        full = f"{key}@{override.package}" if override.package else key
        return Given(text, full, delete=True)
    if pick and (override.package or key in groups):
        return Given(text, key, value, Choice(key, override.package or key, option))
    if pick:
        registry = choice_at(nodes.config, key.split("."))
        if registry is not None:
            return Given(text, key, value, Choice(group_of(registry), key, option))
    return Given(text, key, value)


def _pick(nodes: Nodes, given: list[Given]) -> tuple[list[str], list[Choice]]:
    """(Hydra's overrides for all choices, those that replace another option).

    An entry the defaults list lacks must be appended with ``+``, one it has must not; and what it
    has depends on the choices further out. So: preset groups first, then by depth.
    """
    picks = [g.choice for g in given if g.choice is not None]
    depths = {c: -1 if c.group not in nodes.registries else c.path.count(".") for c in picks}
    lines: list[str] = []
    swapped: list[Choice] = []
    for depth in sorted(set(depths.values())):
        if depth >= 0 or any(c.option is None for c in picks):
            known = tree.compose_tree(nodes, lines).choices
        else:  # preset groups are always in the list: save the composing
            known = dict.fromkeys(nodes.global_groups())
        for choice in {c.key: c for c in picks if depths[c] == depth}.values():
            if choice.option is not None:
                lines.append(f"{'' if choice.key in known else '+'}{choice.key}={choice.option}")
            elif known.get(choice.key) is not None:
                lines.append(f"~{choice.key}")
            if choice.option is not None and known.get(choice.key) not in (None, choice.option):
                swapped += [choice] if depth >= 0 else []
    return lines, swapped


def _forget_old_option(nodes: Nodes, config: DictConfig, choice: Choice) -> None:
    """Undo what presets set inside a choice for the option that was replaced."""
    setting = locate(nodes.config, choice.path.split("."), tree.plain(config))
    node = tree.get(config, choice.path)
    assert setting is not None and setting.section is not None and setting.registry is not None
    own = tree.option_alone(nodes, choice)
    shared = set(settings_of(setting.section))
    others = {k for e in setting.registry for k in settings_of(e.config)}
    for name in list(node):
        if name in own and name not in shared and not isinstance(own[name], dict):
            node[name] = own[name]
        elif name not in own and name in others:
            node.pop(name)


def _apply_when(recipe: type, config: DictConfig) -> None:
    """Merge what presets say for one option of a choice: ``when: {loss=pearson: {weight: 0.1}}``.
    Entries of mappings (``more_losses.eq=eqvae``) may be absent.

    Raises ValueError for a condition that names no choice: a mistake in a preset.
    """
    for condition, settings in (config.pop("when", None) or {}).items():
        path, equals, option = str(condition).partition("=")
        if not equals or choice_at(recipe, path.split(".")) is None:
            raise ValueError(f"when: {condition!r} in a preset names no choice (loss=pearson does)")
        node = tree.get(config, path)
        if isinstance(node, DictConfig) and node.get("kind") == option:
            tree.put(config, path, settings)


def _put_null(nodes: Nodes, config: DictConfig, values: dict[str, Any], path: str) -> None:
    """``path=null``: a field becomes None (its class default must not come back), an entry of a
    mapping goes away."""
    above = path.split(".")[:-1]
    parent = locate(nodes.config, above, values) if above else None
    if parent is not None and parent.mapping:
        tree.remove(config, path)
    else:
        tree.put(config, path, None)


def _check(nodes: Nodes, given: Given, values: dict[str, Any], problems: list[str]) -> bool:
    """Does the key name a setting of what was chosen? If not, say what was probably meant."""
    problem = None
    path = given.key.split(".")
    if given.delete:
        problem = errors.bad_deletion(given.key, nodes, values)
    elif locate(nodes.config, path, values) is None:
        problem = errors.unknown_key(given.key, nodes, values)
    else:
        problem = errors.bad_pick(given.key, given.text.partition("=")[2], nodes.config)
    if problem is not None:
        problems.append(problem)
    return problem is None
