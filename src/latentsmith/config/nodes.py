"""Config classes as Hydra sees them: plain-dict nodes, groups and defaults lists.

OmegaConf's own dataclass support knows neither ``Literal`` nor unions, and slices a subclass to
its base in silence; so Hydra gets plain dicts and pydantic checks the composed result.
"""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from pydantic import TypeAdapter

from latentsmith.config.fields import Setting, settings_of
from latentsmith.errors import UserError
from latentsmith.registry import Registry

SHARED = Path(__file__).parent.parent / "presets"
"""YAML presets every recipe may use, one folder per group."""

DEFAULT_SCALE = "laptop"
"""The scale of a run that names none, where the recipe has it: real data, minutes."""

GROUP_NAMES = {"dataset": "data"}
"""Registry family → group, where they differ."""

PLAIN = (bool, int, float, str, NoneType)
"""Values that YAML has (NaN and infinity no schema lets in)."""


def group_of(registry: Registry) -> str:
    """The Hydra group that lists a registry's entries: ``encoder``, ``data``, ``loss``…"""
    return GROUP_NAMES.get(registry.family, registry.family)


@dataclass(frozen=True)
class Choice:
    """One entry of a defaults list: ``group@path: option`` (None: nothing chosen)."""

    group: str
    path: str
    option: str | None

    @property
    def key(self) -> str:
        """Hydra's name of this entry, the one an override uses."""
        return self.group if self.group == self.path else f"{self.group}@{self.path}"

    def entry(self) -> dict[str, str | None]:
        """The line of the defaults list. The slash makes the group absolute."""
        optional = "optional " if self.option is None else ""
        return {f"{optional}/{self.group}@{self.path}": self.option}


@dataclass
class Nodes:
    """Everything Hydra needs to compose one recipe.

    Attributes:
        config: the recipe's config class.
        presets: the recipe's own preset folder (may be missing).
        base: plain-dict defaults of the recipe, choices left out.
        choices: what is chosen unless a preset or the user says otherwise.
        options: group → option → node, for groups that are registries.
        registries: group → registry.
    """

    config: type
    presets: Path
    base: dict[str, Any] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    options: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    registries: dict[str, Registry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base, self.choices = self._node(self.config, None)

    def _node(self, config: type, value: Any) -> tuple[dict[str, Any], list[Choice]]:
        """Defaults of ``config`` (or the values of an instance) and the choices inside."""
        values: dict[str, Any] = {}
        choices: list[Choice] = []
        for name, setting in settings_of(config).items():
            given = setting.default if value is None else getattr(value, name)
            if setting.registry is not None:
                self._register(setting.registry)
                items = {name: given}
                if setting.mapping:
                    values[name] = {}
                    items = {f"{name}.{k}": v for k, v in given.items()} if _given(given) else {}
                choices += [self._choice(setting, path, item) for path, item in items.items()]
            elif setting.section is not None and not setting.mapping and given is not None:
                present = None if given is MISSING else given
                inner = setting.section if present is None else type(present)
                values[name], below = self._node(inner, present)
                choices += [Choice(c.group, f"{name}.{c.path}", c.option) for c in below]
            else:
                values[name] = "???" if given is MISSING else _plain(setting.hint, given)
        return values, choices

    def _choice(self, setting: Setting, path: str, given: Any) -> Choice:
        """The defaults-list entry of a choice field. A default instance that differs from its
        kind's own defaults becomes an option of its own."""
        assert setting.registry is not None
        group = group_of(setting.registry)
        if not _given(given):
            return Choice(group, path, None)
        option = given.kind
        node, below = self._node(type(given), given)
        node = _with_defaults(node, below)
        if node != self.options[group][option]:
            option = f"{given.kind}-default"
            while option in self.options[group] and self.options[group][option] != node:
                option += "-"  # two fields with different defaults of one kind
            self.options[group][option] = node
        return Choice(group, path, option)

    def _register(self, registry: Registry) -> None:
        group = group_of(registry)
        if group in self.registries:
            return
        self.registries[group] = registry
        self.options[group] = {}
        for entry in registry:
            values, below = self._node(entry.config, None)
            values["kind"] = entry.name
            self.options[group][entry.name] = _with_defaults(values, below)

    def folders(self) -> list[Path]:
        """Preset folders, the recipe's own first."""
        return [folder for folder in (self.presets, SHARED) if folder.is_dir()]

    def presets_of(self, group: str) -> list[str]:
        """Names of the YAML presets of a group, sorted."""
        files = [f for folder in self.folders() for f in (folder / group).glob("*.yaml")]
        return sorted({f.stem for f in files})

    def preset_help(self, group: str, name: str) -> str:
        """The first comment line of a preset that says something ("" without one)."""
        files = [folder / group / f"{name}.yaml" for folder in self.folders()]
        text = next(f for f in files if f.is_file()).read_text()
        comments = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        return next((line for line in comments if line and not line.startswith("@package")), "")

    def option_names(self, group: str) -> list[str]:
        """What ``group=`` may be: registered kinds and presets, sorted."""
        return sorted({*self.options.get(group, {}), *self.presets_of(group)})

    def global_groups(self) -> list[str]:
        """Groups that are preset folders only (``scale``, ``experiment``): their files set
        anything and are applied last, in this order."""
        names = {d.name for folder in self.folders() for d in folder.iterdir() if d.is_dir()}
        names = {n for n in names if n not in self.registries and not n.startswith(("_", "."))}
        names &= {n for n in names if self.presets_of(n)} | {"scale"}
        return sorted(names - {"scale", "experiment"}) + [
            name for name in ("scale", "experiment") if name in names
        ]

    def primary(self) -> dict[str, Any]:
        """The config Hydra starts from: class defaults, the recipe's ``config.yaml``, then the
        preset groups, so that a later one wins."""
        given = self._defaults_of_config_file()
        entries: list[Any] = ["base"]
        entries += [c.entry() for c in self.choices if c.key not in given]
        if (self.presets / "config.yaml").is_file():
            entries.append("config")
        for group in self.global_groups():
            if group not in given:
                usual = group == "scale" and DEFAULT_SCALE in self.presets_of("scale")
                entries.append({f"optional {group}": DEFAULT_SCALE if usual else None})
        return {"defaults": [*entries, "_self_"]}

    def _defaults_of_config_file(self) -> set[str]:
        file = self.presets / "config.yaml"
        if not file.is_file():
            return set()
        try:
            content = yaml.safe_load(file.read_text()) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{file} is not valid YAML: {error}") from error
        keys = set()
        for entry in content.get("defaults", []):
            if isinstance(entry, dict):
                key = str(next(iter(entry))).split()[-1].lstrip("/")
                group, _, package = key.partition("@")
                keys.add(group if package in ("", group) else key)
        return keys


def _with_defaults(values: dict[str, Any], choices: list[Choice]) -> dict[str, Any]:
    if not choices:
        return values
    return {"defaults": ["_self_", *(c.entry() for c in choices)], **values}


def _given(value: Any) -> bool:
    return value is not MISSING and value is not None


def _plain(hint: Any, value: Any) -> Any:
    """A default as YAML would hold it."""
    if type(value) in PLAIN:  # most are, and building what writes out others takes ms
        return value
    return TypeAdapter(hint).dump_python(value, mode="json", warnings=False)
