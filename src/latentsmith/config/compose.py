"""Recipe name + overrides → one checked, typed config. The only file that talks to Hydra.

``compose("mmreg", ["scale=laptop", "encoder=dinov2", "loss.weight=0.3"])``

Order, later wins: defaults of the config classes, the recipe's ``config.yaml``, preset groups
(``scale`` then ``experiment`` last), ``key=value`` overrides. Beyond Hydra's own syntax:

* a choice anywhere is picked by its dotted path (``more_references.pca=pixel_pca`` means
  ``+encoder@more_references.pca=pixel_pca``), and ``path=null`` takes an optional one away;
* new entries of dict settings need no ``+``.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from latentsmith.config import errors
from latentsmith.config.fields import choice_at, locate
from latentsmith.config.nodes import SHARED, Choice, Nodes, group_of
from latentsmith.errors import UserError
from latentsmith.recipes.base import RECIPES, RecipeConfig

PRIMARY = "latentsmith"
"""Name of the generated config Hydra starts from."""


@dataclass(frozen=True)
class Given:
    """One override of the user's, understood."""

    text: str
    """As typed."""
    key: str
    """Dotted path, or group, without ``+`` or ``~``."""
    choice: Choice | None = None
    """Set when it picks an option of a group."""
    delete: bool = False

    @property
    def value(self) -> str:
        """The value as typed."""
        return self.text.partition("=")[2]


def nodes_of(recipe: str) -> Nodes:
    """Groups, choices and defaults of a recipe. Raises UserError for an unknown name."""
    config = RECIPES[recipe].config
    return _nodes(config, Path(inspect.getfile(config)).parent / "presets")


@functools.lru_cache(maxsize=16)
def _nodes(config: type, presets: Path) -> Nodes:
    return Nodes(config, presets)


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
    adapter: TypeAdapter[Any] = TypeAdapter(nodes.config)
    try:
        config = adapter.validate_python(values)
    except ValidationError as error:
        problems += errors.explain(error, nodes.config, values, problems)
    except UserError as error:  # from a __post_init__
        problems.append(str(error))
    if problems:
        raise UserError(errors.listing(recipe, problems))
    return config


def outline(recipe: str, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The composed values before they are checked; what is still required is absent.

    Raises:
        UserError: an override is unreadable, or names nothing.
    """
    values, problems = _compose_values(nodes_of(recipe), overrides)
    if problems:
        raise UserError(errors.listing(recipe, problems))
    return values


def check(config: RecipeConfig) -> RecipeConfig:
    """Validate a config built in Python; the checked copy.

    Raises:
        UserError: as `compose`.
    """
    adapter = TypeAdapter(type(config))
    values = adapter.dump_python(config, warnings=False)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        problems = errors.explain(error, type(config), values, [])
        raise UserError(errors.listing(config.kind, problems)) from None


def choices_of(recipe: str, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, str | None]:
    """What each group stands at: ``{"scale": "laptop", "encoder": "dinov2", …}``."""
    nodes = nodes_of(recipe)
    with _hydra(nodes):
        return _choices(_pick(nodes, _understand(nodes, overrides, [])))


def _compose_values(
    nodes: Nodes, overrides: list[str] | tuple[str, ...]
) -> tuple[dict[str, Any], list[str]]:
    """(values, problems with the overrides, which were then left out)."""
    problems: list[str] = []
    given = _understand(nodes, overrides, problems)
    with _hydra(nodes):
        picked = _pick(nodes, given)
        values = _plain(_load(picked))
        good = [g for g in given if g.choice is None and _check(nodes, g, values, problems)]
        if good:
            values = _plain(_load(picked + [_assign(g) for g in good]))
    for g in given:
        if g.choice is not None and g.choice.option is None:
            _set_null(nodes, values, g.choice.path)
    return values, problems


def _understand(
    nodes: Nodes, overrides: list[str] | tuple[str, ...], problems: list[str]
) -> list[Given]:
    """Parse every override; those that cannot be used become problems."""
    found = []
    groups = {*nodes.registries, *nodes.global_groups()}
    words, unreadable = errors.readable_words(overrides)
    problems += unreadable
    for text in words:
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
        return Given(text, key, Choice(key, override.package or key, option))
    if pick:
        registry = choice_at(nodes.config, key.split("."))
        if registry is not None:
            return Given(text, key, Choice(group_of(registry), key, option))
    return Given(text, key)


def _pick(nodes: Nodes, given: list[Given]) -> list[str]:
    """Hydra's overrides for all choices.

    An entry the defaults list lacks must be appended with ``+``, one it has must not; and what it
    has depends on the choices further out. So: preset groups first, then by depth.
    """
    picks = [g.choice for g in given if g.choice is not None]
    depths = {c: -1 if c.group not in nodes.registries else c.path.count(".") for c in picks}
    lines: list[str] = []
    for depth in sorted(set(depths.values())):
        known = _choices(lines)
        for choice in [c for c in picks if depths[c] == depth]:
            if choice.option is not None:
                lines.append(f"{'' if choice.key in known else '+'}{choice.key}={choice.option}")
            elif known.get(choice.key) is not None:
                lines.append(f"~{choice.key}")
    return lines


def _choices(lines: list[str]) -> dict[str, str | None]:
    """Keys of the resulting defaults list and their options."""
    runtime = _load(lines).hydra.runtime.choices
    return {str(k): v for k, v in runtime.items() if not str(k).startswith("hydra/")}


def _set_null(nodes: Nodes, values: dict[str, Any], path: str) -> None:
    """``path=null``: a field becomes None (its class default must not come back), an entry of a
    mapping goes away."""
    *above, name = path.split(".")
    parent = locate(nodes.config, above, values) if above else None
    for key in above:
        values = values.get(key, {})
    if parent is not None and parent.mapping:
        values.pop(name, None)
    else:
        values[name] = None


def _assign(given: Given) -> str:
    """Force-add: whether the key exists has been checked against the config classes."""
    return f"~{given.key}" if given.delete else f"++{given.key}={given.value}"


def _check(nodes: Nodes, given: Given, values: dict[str, Any], problems: list[str]) -> bool:
    """Does the key name a setting of what was chosen? If not, say what was probably meant."""
    problem = None
    path = given.key.split(".")
    if given.delete:
        problem = errors.bad_deletion(given.key, nodes, values)
    elif locate(nodes.config, path, values) is None:
        problem = errors.unknown_key(given.key, nodes, values)
    else:
        problem = errors.bad_pick(given.key, given.value, nodes.config)
    if problem is not None:
        problems.append(problem)
    return problem is None


@contextlib.contextmanager
def _hydra(nodes: Nodes) -> Iterator[None]:
    """Hydra looking at this recipe's nodes only; its process-wide store is put back after."""
    store = ConfigStore.instance()
    saved = store.repo
    store.repo = dict(saved)
    for name in nodes.options:
        store.repo.pop(name, None)
    try:
        store.store(name="base", node=nodes.base)
        store.store(name=PRIMARY, node=nodes.primary())
        for group, options in nodes.options.items():
            for name, node in options.items():
                store.store(group=group, name=name, node=node)
        with initialize_config_dir(str(nodes.folders()[0].resolve()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(errors.from_hydra(str(error))) from error
    finally:
        store.repo = saved


def _load(overrides: list[str]) -> DictConfig:
    search = f"hydra.searchpath=['file://{SHARED.resolve()}']"
    return hydra_compose(PRIMARY, [search, *overrides], return_hydra_config=True)


def _plain(config: DictConfig) -> dict[str, Any]:
    """Resolved nested dicts; what is still missing (``???``) is left out for pydantic to list."""
    with open_dict(config):
        del config["hydra"]
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return _without_missing(values)


def _without_missing(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: _without_missing(v) for k, v in values.items() if v != "???"}
    return values
