"""Every setting of a recipe with its default, what it may be, and its help."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from latentsmith.config.compose import nodes_of, outline
from latentsmith.config.fields import Setting, chosen, settings_of, unwrap
from latentsmith.config.nodes import group_of

TAB = "    "


def settings_help(recipe: str, overrides: list[str] | tuple[str, ...] = ()) -> str:
    """Plain text. Defaults are those with ``overrides`` (a scale, another encoder) applied.

    Raises:
        UserError: unknown recipe or override.
    """
    nodes = nodes_of(recipe)
    values = outline(recipe, overrides)
    lines = [f"Settings of {recipe}" + (f" with {' '.join(overrides)}" if overrides else "")]
    for group in nodes.global_groups():
        names = nodes.option_names(group)
        if names:
            lines += ["", f"{group}=  one of: {', '.join(names)}", f"{TAB}Preset."]
    for path, kind, default, text in rows(nodes.config, values):
        shown = "required" if default is MISSING else show(default)
        lines += ["", f"{path}={shown}  ({kind})"]
        if text:
            lines.append(textwrap.fill(text, 96, initial_indent=TAB, subsequent_indent=TAB))
    return "\n".join(lines)


def rows(config: type, values: Any, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(dotted path, what it may be, value or MISSING, help) of every setting below ``config``."""
    for name, setting in settings_of(config).items():
        if name == "kind":
            continue
        path = prefix + name
        absent = None if setting.default is None else MISSING
        inside = values.get(name, absent) if isinstance(values, dict) else absent
        if setting.section is None and setting.registry is None:
            yield path, describe(setting.hint), inside, setting.help
            continue
        items = {path: inside}
        if setting.mapping:
            yield f"{path}.NAME", _options(setting), "", setting.help
            items = (
                {f"{path}.{k}": v for k, v in inside.items()} if isinstance(inside, dict) else {}
            )
        elif setting.registry is not None:
            kind = inside.get("kind", MISSING) if isinstance(inside, dict) else inside
            yield path, _options(setting), kind, setting.help
        elif not isinstance(inside, dict):
            yield path, "section, off", inside, setting.help
        for at, value in items.items():
            section = chosen(setting, value)
            if section is not None and isinstance(value, dict):
                yield from rows(section, value, f"{at}.")


def _options(setting: Setting) -> str:
    if setting.registry is None:
        return "section"
    return f"{group_of(setting.registry)}: {', '.join(setting.registry.names())}"


_NAMES = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}


def describe(hint: Any) -> str:
    """What a value may be, in words: ``integer > 0``, ``constant or cosine``, ``text or null``."""
    bare, metadata, optional = unwrap(hint)
    text = f"{_describe_bare(bare)} {' and '.join(_constraints(metadata))}".rstrip()
    return f"{text} or null" if optional else text


def _describe_bare(bare: Any) -> str:
    origin, args = get_origin(bare), get_args(bare)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (list, set, frozenset):
        return f"list of {describe(args[0])}"
    if origin is tuple:
        if args[-1:] == (Ellipsis,):
            return f"list of {describe(args[0])}"
        return f"[{', '.join(describe(a) for a in args)}]"
    if origin is dict:
        return f"mapping of {describe(args[1])}"
    if args:  # a union of several types
        return " or ".join(describe(a) for a in args if a is not type(None))
    if isinstance(bare, type):
        return "path" if issubclass(bare, Path) else _NAMES.get(bare.__name__, bare.__name__)
    return str(bare)


def _constraints(metadata: list[Any]) -> Iterator[str]:
    """``> 0`` and so on, from pydantic's ``Field`` or annotated_types' marks."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    for mark in metadata:
        for part in getattr(mark, "metadata", [mark]):
            for name, sign in signs.items():
                limit = getattr(part, name, None)
                if limit is not None:
                    yield f"{sign} {limit}"


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(show(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}: {show(v)}' for k, v in value.items())}}}"
    text = str(value)
    return repr(text) if re.search(r"[\s,{}\[\]]", text) else text
