"""What a config class holds: its settings, their defaults, and the help written under them."""

import ast
import functools
import inspect
import itertools
import textwrap
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from latentsmith.registry import OneOf, Registry


@dataclass(frozen=True)
class Setting:
    """One field of a config class, seen from the outside."""

    config: type
    """The class."""
    name: str
    hint: Any
    """The annotation with its metadata."""
    default: Any
    """``dataclasses.MISSING`` when the user must give it."""
    section: type | None = None
    """The nested config class, when the field is (or maps to) one."""
    registry: Registry | None = None
    """The registry to choose from, when the field is (or maps to) a choice."""
    mapping: bool = False
    """True for ``dict[str, section or choice]``."""

    @property
    def help(self) -> str:
        """The text under it. Read from the source when it is asked for: composing needs none."""
        return field_help(self.config).get(self.name, "")

    @property
    def required(self) -> bool:
        """True when there is neither a default nor a section that could be built without one."""
        return self.default is MISSING and (self.section is None or self.registry is not None)


def unwrap(hint: Any) -> tuple[Any, list[Any], bool]:
    """Strip ``Annotated`` and ``| None``: (bare type, metadata, whether None is allowed)."""
    metadata: list[Any] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            metadata += more
        elif get_origin(hint) in (Union, types.UnionType):
            rest = [a for a in get_args(hint) if a is not type(None)]
            optional = optional or len(rest) < len(get_args(hint))
            if len(rest) != 1:
                return hint, metadata, optional
            hint = rest[0]
        else:
            return hint, metadata, optional


def _target(hint: Any) -> tuple[type | None, Registry | None, bool]:
    """(section, registry, mapping) of an annotation."""
    bare, metadata, _ = unwrap(hint)
    for mark in metadata:
        if isinstance(mark, OneOf):
            return bare, mark.registry, False
    if get_origin(bare) is dict:
        section, registry, nested = _target(get_args(bare)[1])
        if not nested:
            return section, registry, section is not None
    if isinstance(bare, type) and is_dataclass(bare):
        return bare, None, False
    return None, None, False


@functools.cache
def settings_of(config: type) -> dict[str, Setting]:
    """The settings of a config dataclass, in order, inherited ones included."""
    hints = get_type_hints(config, include_extras=True)
    found = {}
    for f in fields(config):
        default = f.default
        if default is MISSING and f.default_factory is not MISSING:
            default = f.default_factory()
        section, registry, mapping = _target(hints[f.name])
        found[f.name] = Setting(config, f.name, hints[f.name], default, section, registry, mapping)
    return found


@functools.cache
def field_help(config: type) -> dict[str, str]:
    """Field name → the string literal under it, joined to one line. Bases are searched too."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # typed in at a prompt: no source to read
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = " ".join(text.value.value.split())
    return found


def locate(config: type, path: list[str], values: Any) -> Setting | None:
    """The setting a dotted path names, or None.

    ``values`` are the composed settings (nested dicts): at a choice they tell which kind was
    chosen. Keys below a free-form dict are all accepted and give the dict's setting.
    """
    setting = settings_of(config).get(path[0])
    if setting is None:
        return None
    rest = path[1:]
    inside = values.get(path[0]) if isinstance(values, dict) else None
    if setting.mapping and rest:
        inside = inside.get(rest[0]) if isinstance(inside, dict) else None
        rest = rest[1:]
    if not rest:
        return setting
    section = chosen(setting, inside)
    if section is not None:
        return locate(section, rest, inside)
    bare, _, _ = unwrap(setting.hint)
    return setting if setting.section is None and (get_origin(bare) or bare) is dict else None


def chosen(setting: Setting, values: Any) -> type | None:
    """The config class behind a section, or behind a choice whose ``values`` hold a kind."""
    if setting.registry is None:
        return setting.section
    kind = values.get("kind") if isinstance(values, dict) else None
    known = {entry.name: entry.config for entry in setting.registry}
    return known.get(kind) if isinstance(kind, str) else None


def paths(config: type, values: Any, prefix: str = "") -> list[str]:
    """Every dotted setting name of the composed ``values``, sections included."""
    found = []
    for name, setting in settings_of(config).items():
        found.append(prefix + name)
        inside = values.get(name) if isinstance(values, dict) else None
        below = {f"{name}.{k}": v for k, v in (inside or {}).items()} if setting.mapping else {}
        if setting.mapping:
            found += [prefix + path for path in below]
        for path, value in (below if setting.mapping else {name: inside}).items():
            section = chosen(setting, value)
            if section is not None:
                found += paths(section, value, f"{prefix}{path}.")
    return found


def choice_at(config: type, path: list[str]) -> Registry | None:
    """The registry of the choice at a dotted path, whatever kinds are chosen on the way."""
    setting = settings_of(config).get(path[0])
    if setting is None:
        return None
    rest = path[2:] if setting.mapping else path[1:]
    if len(path) < (2 if setting.mapping else 1):
        return None
    if not rest:
        return setting.registry
    inner = [setting.section] if setting.registry is None else [e.config for e in setting.registry]
    for section in inner:
        registry = None if section is None else choice_at(section, rest)
        if registry is not None:
            return registry
    return None
