"""What is wrong with a user's settings, in sentences: where, what, and what would be right."""

import difflib
import re
from typing import Any

from pydantic import ValidationError

from latentsmith.config.fields import Setting, choice_at, chosen, locate, paths, settings_of, unwrap
from latentsmith.config.nodes import Choice, Nodes
from latentsmith.errors import nearest

_TYPES = {
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "list_type": "should be a list in brackets, [A,B]",
    "tuple_type": "should be a list in brackets, [A,B]",
    "dict_type": "should be a mapping, e.g. {key: value}",
    "dataclass_type": "is a section: give its settings, not a value",
}


def listing(recipe: str, problems: list[str]) -> str:
    """One message for all problems."""
    head = f"{len(problems)} problems in" if len(problems) > 1 else "problem in"
    return "\n  ".join([f"{head} the settings of {recipe}:", *problems])


def readable_words(words: list[str] | tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(words that are ``key=value`` or ``~key``, problems with the others)."""
    good, problems = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if "=" in word or word.startswith("~"):
            if word.lstrip("+").startswith("="):
                problems.append(f"{word}: settings are written key=value; the key is missing")
            else:
                good.append(word)
            continue
        value = "VALUE"
        if rest and "=" not in rest[0] and not rest[0].startswith(("~", "-")):
            value = rest.pop(0)  # "lr 3": say it once
        name = word.lstrip("-")
        shown = word if value == "VALUE" else f"{word} {value}"
        problems.append(f"{shown}: settings are written key=value: {name}={value}")
    return good, problems


def unreadable(text: str, reason: str) -> str:
    """Hydra's parser gave up."""
    key, _, value = text.partition("=")
    reason = reason.splitlines()[0].strip()
    return (
        f"{text}: cannot read this value ({reason}). If it holds spaces or any of "
        f"{{}}[](),:=\\ quote it twice: '{key}=\"{value}\"'"
    )


def calls_resolver(text: str) -> str | None:
    """``${oc.env:HOME}`` in a value would run a function of OmegaConf's, or of whoever registered
    one. Values are data: only ``${another.setting}`` is let through."""
    found = re.search(r"(?<!\\)(?:\\\\)*\$\{\s*([\w.-]+)\s*:", text)
    if found is None:
        return None
    return (
        f"{text}: ${{{found[1]}:…}} calls a function, and settings are only data: write the value "
        "itself (the shell fills in $NAME), or \\${ for these very signs"
    )


def sweep_in_run(text: str) -> str:
    """A list of alternatives outside ``sweep``."""
    key, _, value = text.partition("=")
    return (
        f"{text}: several values. Use 'latentsmith sweep' to run each; if it is one list, "
        f"write {key}=[{value}]"
    )


def bad_choice(choice: Choice, key: str, nodes: Nodes) -> str | None:
    """An option its group does not have."""
    groups = [*nodes.registries, *nodes.global_groups()]
    if choice.group not in groups:
        return f"{choice.key}: no group {choice.group!r}. {nearest(choice.group, groups)}"
    options = nodes.option_names(choice.group)
    if choice.option is None or choice.option in options:
        return None
    known = f"Choices: {', '.join(options)}." if options else "There are none."
    close = difflib.get_close_matches(choice.option, options, n=1, cutoff=0.5)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    registry = nodes.registries.get(choice.group)
    what = choice.group if registry is None else registry.family
    what += "" if key == choice.group else f" for {key}"
    return f"{key}={choice.option}: no such {what}. {meant}{known}"


def bad_pick(key: str, value: str, config: type) -> str | None:
    """A choice given as anything but a name (``encoder.kind=dinov2``, ``encoder={…}``)."""
    owner, _, last = key.rpartition(".")
    if last == "kind" and owner and choice_at(config, owner.split(".")) is not None:
        return f"{key}: choose with {owner}={value}"
    registry = choice_at(config, key.split("."))
    if registry is not None:
        names = ", ".join(registry.names())
        return f"{key}: choose by name, {key}=NAME, one of: {names}; then {key}.SETTING=VALUE"
    return None


def bad_deletion(key: str, nodes: Nodes, values: dict[str, Any]) -> str | None:
    """``~key`` takes away entries of mappings and chosen parts, not settings."""
    *above, name = (key.partition("@")[2] or key).split(".")
    parent = locate(nodes.config, above, values) if above else None
    inside: Any = values
    for part in above:
        inside = inside.get(part) if isinstance(inside, dict) else None
    if parent is not None and (parent.mapping or parent.section is None):
        known = list(inside or {})
        return None if name in known else f"~{key}: nothing to take away. {nearest(name, known)}"
    return f"~{key}: only entries of a mapping can be taken away; set it instead: {key}=VALUE"


def unknown_key(key: str, nodes: Nodes, values: dict[str, Any]) -> str:
    """A dotted key that names nothing, with what was probably meant."""
    parts = key.split(".")
    other = _of_another_kind(nodes.config, parts, values)
    if other is not None:
        return f"{key}: {other}"
    known = paths(nodes.config, values)
    groups = [*nodes.registries, *nodes.global_groups()]
    section = _deepest(parts, known)
    inside = [k for k in known if k.startswith(section + ".")] if section else []
    close = (
        [k for k in inside if k.split(".")[-1] == parts[-1]]
        or _by_last_part(parts[-1], inside)
        or [k for k in known if k.split(".")[-1] == parts[-1]]
    )
    if not close and not section:
        close = difflib.get_close_matches(key, [*known, *groups], n=3, cutoff=0.7)
        close = close or _by_last_part(parts[-1], known)
    if close:
        return f"{key}: no such setting. Did you mean {' or '.join(close[:3])}?"
    if section:
        return f"{key}: no such setting. {section} has: {', '.join(inside) or 'none'}."
    top = dict.fromkeys([*settings_of(nodes.config), *groups])
    top.pop("kind", None)
    return f"{key}: no such setting. Known: {', '.join(top)}."


def _by_last_part(name: str, known: list[str]) -> list[str]:
    """Keys whose last part looks like ``name``."""
    ends = {k.split(".")[-1] for k in known}
    close = difflib.get_close_matches(name, ends, n=2, cutoff=0.7)
    return [k for end in close for k in known if k.split(".")[-1] == end]


def _deepest(parts: list[str], known: list[str]) -> str:
    """The longest leading part of a key that is a section."""
    heads = [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]
    return next((h for h in heads if any(k.startswith(h + ".") for k in known)), "")


def _of_another_kind(config: type, parts: list[str], values: Any) -> str | None:
    """ "resolution is a setting of encoder=dinov2, not of encoder=pixel_pca", if it is so."""
    for n in range(1, len(parts)):
        setting = locate(config, parts[:n], values)
        if setting is None or setting.registry is None:
            continue
        inside: Any = values
        for part in parts[:n]:
            inside = inside.get(part) if isinstance(inside, dict) else None
        here, path = chosen(setting, inside), ".".join(parts[:n])
        kinds = [e.name for e in setting.registry if parts[n] in settings_of(e.config)]
        if here is None:
            names = ", ".join(setting.registry.names())
            return f"nothing is chosen for {path} yet; add {path}=NAME, one of: {names}"
        if kinds and parts[n] not in settings_of(here):
            owners = " and ".join(f"{path}={kind}" for kind in kinds)
            return f"{parts[n]} is a setting of {owners}, not of {path}={inside['kind']}"
    return None


def explain(error: ValidationError, config: type, values: Any, already: list[str]) -> list[str]:
    """Pydantic's findings as sentences, one per setting, unless a problem names it already."""
    named = {problem.partition(":")[0].partition("=")[0] for problem in already}
    found: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        path, setting, where = _path(config, item["loc"], values)
        if not any(path == name or path.startswith(name + ".") for name in named):
            alien = _of_another_kind(config, path.split("."), values) if setting is None else None
            found.setdefault(path, []).append(alien or _sentence(item, setting, where, path))
    return [
        f"{path}: {' or '.join(dict.fromkeys(texts))}" if path else " ".join(texts)
        for path, texts in found.items()
    ]


def _path(
    config: type, loc: tuple[int | str, ...], values: Any
) -> tuple[str, Setting | None, type]:
    """Pydantic's location → (dotted path, the setting there, the class that holds it).

    At a choice among several kinds pydantic inserts the kind's name; below a plain value it
    inserts the names of the types it tried. Neither is something a user typed.
    """
    path: list[str] = []
    setting: Setting | None = None
    rest = list(loc)
    while rest:
        name = str(rest.pop(0))
        path.append(name)
        setting = settings_of(config).get(name)
        if setting is None:
            break
        inside = values.get(name) if isinstance(values, dict) else None
        if setting.mapping and rest:
            key = str(rest.pop(0))
            path.append(key)
            inside = inside.get(key) if isinstance(inside, dict) else None
        registry = setting.registry
        if registry is not None and len(registry.names()) > 1 and rest:
            rest.pop(0)
        section = chosen(setting, inside)
        if section is None:
            path += [str(part) for part in rest if isinstance(part, int)]
            break
        if rest:
            config, values = section, inside
    return ".".join(path), setting, config


def _sentence(item: Any, setting: Setting | None, holder: type, path: str) -> str:
    """One finding without pydantic's vocabulary."""
    kind, message, value = item["type"], item["msg"], item["input"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [name for name in settings_of(holder) if name != "kind"]
        return f"no such setting here. {nearest(path.split('.')[-1], known)}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return _missing(setting, path)
    unpicked = value is None or "tag" in kind or kind == "dataclass_type"
    if setting is not None and setting.registry is not None and unpicked:
        return _missing(setting, path)
    if kind == "literal_error":
        options = [o.strip("'") for o in re.findall(r"'[^']*'", message)]
        text = f"should be one of: {', '.join(options) or item['ctx']['expected']}"
    else:
        text = _TYPES.get(kind) or message.replace("Input should", "should", 1)
    if setting is not None and unwrap(setting.hint)[2]:
        text += " or null"
    return f"{text} (got {value!r})"


def _missing(setting: Setting | None, path: str) -> str:
    if setting is not None and setting.registry is not None:
        names = ", ".join(setting.registry.names())
        return f"choose one with {path}=NAME, one of: {names}"
    about = f": {setting.help}" if setting is not None and setting.help else ""
    return f"required and not given; add {path}=VALUE{about}"


def from_hydra(message: str) -> str:
    """The useful lines of Hydra's or OmegaConf's message."""
    lines = [line.strip() for line in message.split("Config search path")[0].splitlines()]
    where = [line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")]
    noise = ("full_key", "object_type", "set the environment", "reference_type")
    kept = " ".join(line for line in lines if line and not line.startswith(noise))
    return f"cannot compose the settings: {where[0] + ': ' if where else ''}{kept}"
