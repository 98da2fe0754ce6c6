"""Recipes and components from outside this package.

A plug-in is a Python module or package whose import registers something: a recipe, a loss, an
encoder, a dataset, a metric. It is written like the library's own (see CONTRIBUTING.md) and found

* when it is installed, by an entry point of the group ``latentsmith.plugins``::

      [project.entry-points."latentsmith.plugins"]
      my_recipe = "my_recipe"

* where it lies, by the variable ``LATENTSMITH_PLUGINS``: package folders or single ``.py`` files,
  several joined as in ``PATH``. Processes that a run starts inherit it.

Plug-ins are code that runs with the user's rights: name only those you trust.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from latentsmith.errors import UserError

GROUP = "latentsmith.plugins"
VARIABLE = "LATENTSMITH_PLUGINS"


@dataclass(frozen=True)
class Plugin:
    """One that was imported."""

    name: str
    """Its module's."""
    origin: str
    """``my-recipe 0.1.0`` of an installed one, else its path."""
    folder: Path | None
    """Where its code lies."""


_loaded: list[Plugin] = []
_asked = False


def load() -> list[Plugin]:
    """Import every plug-in, at the first call in a process; those that were imported.

    Raises:
        UserError: some cannot be imported, or a path is no plug-in. Later calls go on without
            them.
    """
    global _asked
    if _asked:
        return list(_loaded)
    _asked = True  # set first: a plug-in's module may itself ask a registry
    problems = []
    for name, origin, bring in _wanted():
        try:
            module = _imported(name, origin, bring)
        except UserError as error:
            problems.append(str(error))
        else:
            file = getattr(module, "__file__", None)
            _loaded.append(Plugin(name, origin, Path(file).parent if file else None))
    if problems:
        raise UserError("\n".join(problems))
    return list(_loaded)


def _wanted() -> Iterator[tuple[str, str, Callable[[], ModuleType]]]:
    """(module, where it comes from, what imports it)."""
    for point in metadata.entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "entry point"
        yield point.module, origin, lambda name=point.module: importlib.import_module(name)
    for text in os.environ.get(VARIABLE, "").split(os.pathsep):
        if text:
            path = Path(text).expanduser().resolve()
            yield path.stem, str(path), lambda path=path: _from_path(path)


def _from_path(path: Path) -> ModuleType:
    """Import a package's folder or a module's file by its name, from the folder it lies in."""
    inside = path / "__init__.py"
    if not (inside.is_file() if path.is_dir() else path.is_file() and path.suffix == ".py"):
        raise UserError(
            f"{VARIABLE} names {path}, which is neither a folder with an __init__.py nor a .py file"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: it must hide no installed package
    module = importlib.import_module(path.stem)
    found = Path(module.__file__ or "").resolve()
    if found not in (inside, path):
        raise UserError(
            f"{VARIABLE} names {path}, but the name {path.stem!r} belongs to {found}: rename it"
        )
    return module


def _imported(name: str, origin: str, bring: Callable[[], ModuleType]) -> ModuleType:
    try:
        return bring()
    except UserError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise UserError(
            f"the plug-in {name} ({origin}) cannot be imported: {type(error).__name__}: {error}. "
            f"Mend it, or take it away (pip uninstall, or out of {VARIABLE})"
        ) from error
