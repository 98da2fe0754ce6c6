"""Modules that stand alone: the source of one, with the source of what it imports from latentsmith
in the place of those imports.

What an export ships is then the library's own code, not a second copy of it. The modules are in
`latentsmith.export.shipped`. Settings classes, which need pydantic, are not followed: where a layer
is built from settings, anything with the same attributes will do, and of hints only the names stay.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import latentsmith

OURS = "latentsmith"
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign

HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Written by latentsmith {version} from its own source.
"""


class Imported(NamedTuple):
    """One name of an import: from where, what it is called there (None: the module itself) and
    here."""

    module: str
    name: str | None
    alias: str

    @property
    def line(self) -> str:
        """The statement that imports it."""
        renamed = "" if self.alias == (self.name or self.module) else f" as {self.alias}"
        if self.name is None:
            return f"import {self.module}{renamed}"
        return f"from {self.module} import {self.name}{renamed}"


class Source:
    """A module as text.

    Args:
        module: its dotted name.

    Attributes:
        tree: what it says.
        imported: name → what its top level imports under it.
        defined: name → the top-level statement that defines it.
    """

    def __init__(self, module: str):
        found = importlib.util.find_spec(module)
        assert found is not None and found.origin is not None, module
        self.module, text = module, Path(found.origin).read_text("utf-8")
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        self.imported = {i.alias: i for node in self.tree.body for i in _imports(node)}
        self.defined: dict[str, Definition] = {}
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            self.defined[name.id] = node

    def text(self, node: ast.stmt) -> str:
        """A statement's lines, with its decorators."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return "\n".join(self.lines[first - 1 : node.end_lineno])


@cache
def _source(module: str) -> Source:
    return Source(module)


def _imports(node: ast.stmt) -> Iterator[Imported]:
    if isinstance(node, ast.Import):
        for name in node.names:
            yield Imported(name.name, None, name.asname or name.name)
    elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
        for name in node.names:
            yield Imported(str(node.module), name.name, name.asname or name.name)


@dataclass
class _Gathered:
    """What a module needs, in the order in which it is needed: lines of imports, and definitions of
    latentsmith by name, each with the module it is from."""

    imports: set[str] = field(default_factory=set)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)

    def follow(self, source: Source, node: ast.AST) -> None:
        """What the names in ``node`` stand for."""
        for name in ast.walk(node):
            if isinstance(name, ast.Name):
                self.name(source, name.id)

    def name(self, source: Source, name: str) -> None:
        """What ``name`` stands for in ``source``, unless it is a local one."""
        if name in source.imported:
            found = source.imported[name]
            if found.module.split(".")[0] != OURS:
                self.imports.add(found.line)
            elif found.name != found.alias:
                raise ValueError(f"{source.module} renames {found.module}.{found.name}")
            else:
                self.name(_source(found.module), name)
        elif name in source.defined:
            self._definition(source, name, source.defined[name])

    def _definition(self, source: Source, name: str, node: Definition) -> None:
        if _is_settings(node):
            return
        if name in self.texts:
            if self.texts[name][0] != source.module:
                raise ValueError(f"{name} is in {self.texts[name][0]} and in {source.module}")
            return
        self.texts[name] = (source.module, source.text(node))
        self.follow(source, node)
        self.texts[name] = self.texts.pop(name)  # after what it needs


def _is_settings(node: Definition) -> bool:
    marks = getattr(node, "decorator_list", [])
    return any(isinstance(mark, ast.Name) and mark.id == "schema" for mark in marks)


def standalone(module: str) -> str:
    """Source of a module of this package that runs without this package.

    Args:
        module: its dotted name. What it imports from latentsmith are functions, classes and
            constants, under their own names.

    Raises:
        ValueError: two different things of one name are needed, or one is imported under another.
    """
    source, found = _source(module), _Gathered()
    own: list[str] = []
    for node in source.tree.body[1:]:
        imports = list(_imports(node))
        found.imports |= {i.line for i in imports if i.module.split(".")[0] != OURS}
        for one in imports:
            if one.module.split(".")[0] == OURS:
                found.name(source, one.alias)
        if not imports:
            own.append(source.text(node))
    both = found.texts.keys() & source.defined.keys()
    if both:
        raise ValueError(f"{module} defines {', '.join(sorted(both))}, which it also needs")
    statements = sorted(found.imports, key=lambda line: (line.startswith("from"), line))
    return "\n\n".join([
        HEAD.format(version=latentsmith.__version__) + source.text(source.tree.body[0]),
        "from __future__ import annotations",
        "\n".join(statements),
        *_with_origins(found),
        f"\n# {module}\n\n" + own[0],
        *own[1:],
    ]) + "\n"  # fmt: skip


def _with_origins(found: _Gathered) -> Iterator[str]:
    """The definitions, and before them the module they are from, where that changes."""
    before = ""
    for origin, text in found.texts.values():
        yield text if origin == before else f"\n# {origin}\n\n{text}"
        before = origin
