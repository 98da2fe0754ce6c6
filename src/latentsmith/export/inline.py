"""Modules that stand alone: the source of one, with the source of what it imports from latentsmith
in the place of those imports.

What an export ships is then the library's own code, not a second copy of it. The modules are in
`latentsmith.export.shipped`. Settings classes, which need pydantic, become plain dataclasses: their
values were checked when they were read here. In hints they are not followed, only their names
stay. A registry becomes a dict that holds what was followed and says it registers there
(`latentsmith.export.shipped.registry`). Where two modules have two things of one name, the second
is called after its module, too.
"""

import ast
import importlib.util
import re
from collections.abc import Collection, Iterable, Iterator
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
        imported: name → what it imports under it.
        inner: imports of this package inside functions.
        defined: name → the top-level statement that defines it.
    """

    def __init__(self, module: str):
        found = importlib.util.find_spec(module)
        assert found is not None and found.origin is not None, module
        self.module, text = module, Path(found.origin).read_text("utf-8")
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        self.imported = {i.alias: i for node in ast.walk(self.tree) for i in _imports(node)}
        self.inner = [
            node
            for top in self.tree.body
            for node in ast.walk(top)
            if node is not top and isinstance(node, ast.ImportFrom) and _is_ours(node.module)
        ]
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
        lines = dict(enumerate(self.lines[first - 1 : node.end_lineno], first))
        for one in self.inner:
            for number in range(one.lineno, (one.end_lineno or one.lineno) + 1):
                lines.pop(number, None)
        return "\n".join(lines.values())


def _is_ours(module: str | None) -> bool:
    return str(module).split(".")[0] == OURS


@cache
def _source(module: str) -> Source:
    return Source(module)


def _imports(node: ast.AST) -> Iterator[Imported]:
    if isinstance(node, ast.Import):
        for name in node.names:
            yield Imported(name.name, None, name.asname or name.name)
    elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
        for name in node.names:
            yield Imported(str(node.module), name.name, name.asname or name.name)


class Place(NamedTuple):
    """Where a definition is."""

    module: str
    name: str


INSTEAD = {
    Place("latentsmith.registry", "Registry"): Place(
        "latentsmith.export.shipped.registry", "Registry"
    ),
}
"""What stands in the place of what needs this package."""


def _resolved(source: Source, name: str) -> Place | Imported | None:
    """What ``name`` stands for in ``source``: a definition of latentsmith, an import of something
    else, or None: a local name."""
    module: str = source.module
    for _ in range(20):
        found = _source(module).imported.get(name)
        if found is None:
            place = INSTEAD.get(Place(module, name), Place(module, name))
            return place if name in _source(module).defined else None
        if not _is_ours(found.module) or found.name is None:
            return found
        module, name = found.module, found.name
    raise ValueError(f"{source.module} imports {name} in a circle")


@dataclass
class _Gathered:
    """What a module needs, in the order in which it is needed: lines of imports, and definitions of
    latentsmith, as text."""

    imports: set[str] = field(default_factory=set)
    texts: dict[Place, str] = field(default_factory=dict)
    seen: set[Place] = field(default_factory=set)

    def follow(self, source: Source, name: str, *, at_once: bool = False) -> None:
        """What ``name`` stands for in ``source``, unless it is a local one, after all it needs.

        Args:
            at_once: it must stand before what comes next. Otherwise it need not where two need each
                other.
        """
        found = _resolved(source, name)
        if isinstance(found, Imported):
            self.imports.add(found.line)
        elif found is not None and found not in self.seen:
            self.seen.add(found)
            self._needs_of(found)
            self._write(found)
        elif found is not None and at_once:
            self._write(found)

    def _needs_of(self, place: Place) -> None:
        source, node = _source(place[0]), _definition(place)
        hints, first = _in_hints(node), _names_in(_at_once(node))
        for name in first:
            self.follow(source, name, at_once=True)
        for name in _names_in([node], hints):
            self.follow(source, name)
        for name in _names_in(hints):
            if not _is_settings_of(source, name):
                self.follow(source, name)

    def _write(self, place: Place) -> None:
        if place in self.texts:
            return
        source, node = _source(place[0]), _definition(place)
        settings = node is not source.defined[place[1]]
        self.texts[place] = ast.unparse(node) if settings else source.text(node)
        if settings:
            self.imports |= {"from dataclasses import dataclass", "from typing import Any"}


def _definition(place: Place) -> Definition:
    """The statement; of a settings class, as a plain dataclass."""
    node = _source(place[0]).defined[place[1]]
    if isinstance(node, ast.ClassDef) and _is_settings(node):
        return _plain(node)
    return node


def _names_in(nodes: Iterable[ast.AST], besides: Collection[ast.AST] = ()) -> list[str]:
    """Names that are read in the nodes, each once, in their order."""
    found = (one for node in nodes for one in ast.walk(node) if one not in besides)
    read = (one for one in found if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load))
    return list(dict.fromkeys(one.id for one in read))


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated when a definition is made, not when it is used."""
    if isinstance(node, ast.FunctionDef):
        yield from node.decorator_list
        yield from (d for d in [*node.args.defaults, *node.args.kw_defaults] if d is not None)
    elif isinstance(node, ast.ClassDef):
        yield from [*node.bases, *node.decorator_list]
        for one in node.body:
            yield from _at_once(one)
    elif isinstance(node, ast.AnnAssign):
        yield from [] if node.value is None else [node.value]
    else:
        yield node


def _is_settings_of(source: Source, name: str) -> bool:
    found = _resolved(source, name)
    return (
        found is not None
        and not isinstance(found, Imported)
        and _is_settings(_source(found[0]).defined[found[1]])
    )


def _in_hints(node: ast.AST) -> set[ast.AST]:
    """All that stands in annotations, where nothing is evaluated."""
    hints: set[ast.AST] = set()
    for one in ast.walk(node):
        for found in (getattr(one, "annotation", None), getattr(one, "returns", None)):
            if found is not None:
                hints |= set(ast.walk(found))
    return hints


def _is_settings(node: Definition) -> bool:
    marks = getattr(node, "decorator_list", [])
    return any(isinstance(mark, ast.Name) and mark.id == "schema" for mark in marks)


def _plain(node: ast.ClassDef) -> ast.ClassDef:
    """A settings class as a dataclass, whatever its fields hold."""
    dataclass_ = ast.parse("dataclass(kw_only=True)", mode="eval").body
    marks = [
        dataclass_ if isinstance(mark, ast.Name) and mark.id == "schema" else mark
        for mark in node.decorator_list
    ]
    body = [_plain_field(one) for one in node.body]
    return ast.ClassDef(node.name, node.bases, node.keywords, body, marks, type_params=[])  # pyright: ignore


def _plain_field(node: ast.stmt) -> ast.stmt:
    if not isinstance(node, ast.AnnAssign):
        return node
    if node.value is not None and "ClassVar" in ast.dump(node.annotation):
        return ast.copy_location(ast.Assign([node.target], node.value), node)
    name = ast.Name("Any", ast.Load())
    return ast.copy_location(ast.AnnAssign(node.target, name, node.value, node.simple), node)


def standalone(module: str) -> str:
    """Source of a module of this package that runs without this package.

    Args:
        module: its dotted name.
    """
    source, found = _source(module), _Gathered()
    own: list[str] = []
    for node in source.tree.body[1:]:
        imports = list(_imports(node))
        found.imports |= {i.line for i in imports if not _is_ours(i.module)}
        for one in imports:
            if _is_ours(one.module):
                found.follow(source, one.alias)
        if not imports:
            own.append(source.text(node))
    names = _names(source, found)
    statements = sorted(found.imports, key=lambda line: (line.startswith("from"), line))
    return "\n\n".join([
        HEAD.format(version=latentsmith.__version__) + source.text(source.tree.body[0]),
        "from __future__ import annotations",
        "\n".join(statements),
        *_with_origins(found, names),
        f"\n# {module}\n\n" + _renamed(own[0], source, names),
        *(_renamed(text, source, names) for text in own[1:]),
    ]) + "\n"  # fmt: skip


def _names(source: Source, found: _Gathered) -> dict[Place, str]:
    """What each definition is called: as at home, unless that is taken."""
    names = {Place(source.module, name): name for name in source.defined}
    taken = set(source.defined) | {i.alias for i in source.imported.values() if i.name is None}
    for module, name in found.texts:
        own = name if name not in taken else f"{name}_of_{module.rpartition('.')[2]}"
        names[Place(module, name)] = own
        taken.add(own)
    return names


def _renamed(text: str, source: Source, names: dict[Place, str]) -> str:
    """The text of ``source`` with its names of definitions as they are called here. (An attribute,
    an argument or a method of such a name is no definition's.)"""
    method = r"(?<!^    def )" if re.search(r"^class ", text, re.M) else ""
    for name in [*source.defined, *source.imported]:
        if name not in text:
            continue
        place = _resolved(source, name)
        now = names.get(place, name) if isinstance(place, Place) else name
        if now != name:
            text = re.sub(rf"{method}(?<![\w.]){name}(?!\w|=[^=])", now, text, flags=re.M)
    return text


def _with_origins(found: _Gathered, names: dict[Place, str]) -> Iterator[str]:
    """The definitions, and before them the module they are from, where that changes."""
    before = ""
    for (origin, _), text in found.texts.items():
        text = _renamed(text, _source(origin), names)
        yield text if origin == before else f"\n# {origin}\n\n{text}"
        before = origin
