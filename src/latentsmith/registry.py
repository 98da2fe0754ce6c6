"""Registries: adding a component is adding a file.

A component is a config dataclass with ``kind: Literal["name"]`` and a ``build()`` method, put in
its family's package under ``@FAMILY.register(...)``. The registry imports every module of that
package on first use, so nothing else needs to be edited for the component to be listed, composed
from the command line (``encoder=name``) and run by the family's contract tests. Components from
outside the package come with plug-ins (`latentsmith.plugins`).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union

from pydantic import Field, TypeAdapter, ValidationError

from latentsmith import plugins
from latentsmith.errors import UserError, nearest

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Entry:
    """One registered component."""

    name: str
    config: type
    help: str


class Registry:
    """Named config classes of one family (encoders, losses, datasets, recipes…).

    Args:
        family: what an entry is called in messages, for example ``"encoder"``.
        package: dotted package whose modules hold the entries.
    """

    def __init__(self, family: str, package: str):
        self.family = family
        self.package = package
        self._entries: dict[str, Entry] = {}
        self._loaded = False

    def register(self, name: str, *, help: str) -> Callable[[C], C]:
        """Class decorator. ``help`` is the line ``latentsmith list`` prints."""

        def add(config: C) -> C:
            known = self._entries.get(name)
            if known is not None and _place(known.config) != _place(config):
                both = f"{known.config.__module__} and {config.__module__}"
                raise ValueError(f"{self.family} {name!r} is registered twice: by {both}")
            self._entries[name] = Entry(name, config, help)
            return config

        return add

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # set first: an entry's module may itself ask the registry
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        plugins.load()

    def __iter__(self) -> Iterator[Entry]:
        self._load()
        return iter(sorted(self._entries.values(), key=lambda e: e.name))

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self]

    def __getitem__(self, name: str) -> Entry:
        """Raises UserError naming the nearest known names."""
        self._load()
        if name not in self._entries:
            raise UserError(f"no {self.family} {name!r}. {nearest(name, self._entries)}")
        return self._entries[name]

    def union(self) -> Any:
        """The type "one of these configs", told apart by ``kind``."""
        self._load()
        configs = tuple(entry.config for entry in self)
        if len(configs) == 1:
            return configs[0]
        return Annotated[Union[configs], Field(discriminator="kind")]  # noqa: UP007


def _place(config: type) -> tuple[str, str]:
    """What stays the same when a module is loaded again."""
    return config.__module__, config.__qualname__


class OneOf:
    """Field marker: ``encoder: Annotated[EncoderConfig, OneOf(ENCODERS)]``.

    The annotation stays readable to type checkers (the base class), while pydantic validates
    against the registry's union, resolved when the schema is built.
    """

    def __init__(self, registry: Registry):
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return handler.generate_schema(self.registry.union())


def read(registry: Registry, value: dict[str, Any]) -> Any:
    """A config of the family from plain values with their ``kind``, as JSON or YAML give them.

    Raises:
        UserError: no ``kind``, an unknown one, or values that do not fit it.
    """
    config = registry[str(value.get("kind"))].config
    try:
        return TypeAdapter(config).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            f"settings of {registry.family} {value['kind']!r} do not fit this version of "
            f"latentsmith: {where}: {first['msg']}"
        ) from error
