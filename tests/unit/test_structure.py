"""The shape of the package, read from its source: who may import whom, how long things may be,
what must be documented, and what may not be written into it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGE = SRC / "latentsmith"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
REGISTRY = "latentsmith.recipes.base"
"""The one module of ``recipes`` that the library may import: the promise, not an implementation."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(file: Path) -> str:
    """Dotted name of a source file below ``src``."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


MODULES = {module_of(file) for file in FILES}


def imports(tree: ast.Module, module: str) -> Iterator[tuple[str, int]]:
    """(imported module, line), wherever in the file: inside functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:  # "from package import module" imports the module
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno


def recipe_of(module: str) -> str | None:
    """``mmreg`` for latentsmith.recipes.mmreg.stages; None for the registry and outside recipes."""
    parts = module.split(".")
    inside = parts[:2] == ["latentsmith", "recipes"] and len(parts) > 2
    return parts[2] if inside and parts[2] != "base" else None


def wrong_imports(tree: ast.Module, module: str) -> list[str]:
    """Imports of recipes that ``module`` may not have."""
    own, found = recipe_of(module), []
    for target, line in imports(tree, module):
        of_recipes = target.split(".")[:2] == ["latentsmith", "recipes"]
        if target == "latentsmith.recipes" and module != target:
            found.append(f"{module}:{line} imports {target}: import {REGISTRY}")
        elif of_recipes and recipe_of(target) not in (None, own):
            who = "another recipe" if own else "a recipe into the library"
            found.append(f"{module}:{line} imports {target}, {who}")
    return found


def test_library_imports_no_recipe_and_recipes_not_each_other():
    found = [w for file in FILES for w in wrong_imports(tree_of(file), module_of(file))]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        ("latentsmith.training.loop", "from latentsmith.recipes.mmreg import stages", True),
        (
            "latentsmith.training.loop",
            "def f():\n    import latentsmith.recipes.mmreg.stages",
            True,
        ),
        ("latentsmith.training.loop", "from latentsmith.recipes import mmreg", True),
        ("latentsmith.training.loop", "from ..recipes.mmreg import stages", True),
        (
            "latentsmith.recipes.measure.stages",
            "from latentsmith.recipes.mmreg import stages",
            True,
        ),
        ("latentsmith.recipes.measure.stages", "from ..mmreg import stages", True),
        ("latentsmith.recipes.mmreg.stages", "from latentsmith.recipes.mmreg import stages", False),
        ("latentsmith.recipes.mmreg.stages", f"from {REGISTRY} import RECIPES", False),
        ("latentsmith.config.compose", f"from {REGISTRY} import RECIPES", False),
    ],
)
def test_the_import_rule_sees(module, line, wrong):
    assert bool(wrong_imports(ast.parse(line), module)) is wrong


def importers_of_the_registry() -> set[str]:
    """Top-level packages that know recipes exist at all."""
    return {
        module_of(file).split(".")[1]
        for file in FILES
        for target, _ in imports(tree_of(file), module_of(file))
        if target == REGISTRY
    }


def test_only_settings_and_command_line_know_that_there_are_recipes():
    assert importers_of_the_registry() <= {"config", "cli", "recipes"}


def test_importing_the_command_line_is_light():
    heavy = ["torch", "numpy", "transformers", "diffusers", "matplotlib", "hydra", "pydantic"]
    code = f"import sys, latentsmith.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", f"latentsmith.cli imports {done.stdout.strip()}"


def test_importing_every_module_leaves_the_heaviest_libraries_out():
    """torch may load with a module; what takes seconds more is imported where it is used. Modules
    that exports carry along are diffusers' by nature; who writes them imports them there too."""
    heavy = ["transformers", "diffusers", "matplotlib", "sklearn", "datasets", "accelerate"]
    shipped = {name for name in MODULES if name.startswith("latentsmith.export.shipped.")}
    names = sorted(MODULES - {"latentsmith.__main__"} - shipped)
    code = (
        f"import importlib, sys\nfor n in {names}: importlib.import_module(n)\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", f"importing the package imports {done.stdout.strip()}"


def test_files_can_be_read_in_one_sitting():
    lengths = {module_of(file): len(file.read_text().splitlines()) for file in FILES}
    long = {name: n for name, n in lengths.items() if n > LONGEST_FILE}
    assert not long, f"longer than {LONGEST_FILE} lines: {long}"


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """(dotted name, node) of every function and method, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if isinstance(node, Function):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def length(node: Function) -> int:
    """Lines from ``def`` to the end, docstring included, decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_functions_fit_a_screen():
    long = {
        f"{module_of(file)}.{name}": length(node)
        for file in FILES
        for name, node in functions(tree_of(file))
        if length(node) > LONGEST_FUNCTION
    }
    assert not long, f"longer than {LONGEST_FUNCTION} lines: {long}"


def classes() -> dict[str, ast.ClassDef]:
    """Every class of the package by its bare name."""
    return {
        node.name: node
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ClassDef)
    }


CLASSES = classes()


def explains(owner: ast.ClassDef, method: str) -> bool:
    """Whether a class, or one it inherits from, says what ``method`` is: the method's docstring,
    or a line ``method:`` among the class's attributes."""
    for node in owner.body:
        if isinstance(node, Function) and node.name == method and ast.get_docstring(node):
            return True
    if re.search(rf"^\s+{method}(,[^:]+)?:", ast.get_docstring(owner) or "", re.MULTILINE):
        return True
    bases = [b.id for b in owner.bases if isinstance(b, ast.Name)]
    return any(explains(CLASSES[b], method) for b in bases if b in CLASSES)


def undocumented(tree: ast.Module, module: str) -> Iterator[str]:
    """Public names without a word: the module, its classes and functions, their methods."""
    if not ast.get_docstring(tree):
        yield module
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{module}.{node.name}"
        for part in node.body if isinstance(node, ast.ClassDef) else []:
            public = isinstance(part, Function) and not part.name.startswith("_")
            if public and not explains(node, part.name):
                yield f"{module}.{node.name}.{part.name}"


def test_everything_public_is_documented():
    found = [name for file in FILES for name in undocumented(tree_of(file), module_of(file))]
    assert not found, "no docstring:\n" + "\n".join(found)


def test_the_docstring_rule_sees():
    source = '''"""m"""
class A:
    """a

    Attributes:
        told: in the class.
    """
    def told(self): ...
    def silent(self): ...
    def _private(self): ...
def f(): ...
def g():
    """g"""
'''
    assert list(undocumented(ast.parse(source), "m")) == ["m.A.silent", "m.f"]


HOSTS = {"download.pytorch.org", "bucket"}
"""Named to users in messages that say where to get weights, and in examples. Code itself opens no
address but a user's own: data and weights come through libraries (the hub's, apt's, fsspec's)."""
MACHINE_PATHS = re.compile(r"(?<![\w.~])/(home|root|tmp|work|mnt|opt|Users|workspace)(/|\b)")
URL = re.compile(r"(?:https?|ftp|s3|gs)://([\w.-]+)")


def strings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every text literal outside docstrings."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, nodes) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value, node.lineno


def test_code_holds_no_network_address():
    found = [
        f"{module_of(file)}:{line} {text!r}"
        for file in FILES
        for text, line in strings(tree_of(file))
        if set(URL.findall(text)) - HOSTS
    ]
    assert not found, "\n".join(found)


def written() -> list[Path]:
    """Every text file a reader of the repository sees, except this one."""
    folders = [ROOT / name for name in ("src", "tests", "docs", "benchmarks")]
    ends = {".py", ".md", ".yaml", ".toml", ".txt", ".css", ".j2", ".json"}
    files = [f for folder in folders for f in folder.rglob("*") if f.suffix in ends]
    files += [f for f in ROOT.iterdir() if f.is_file() and not f.name.startswith(".")]
    parts = ("__pycache__", ".egg-info")
    return [f for f in files if f != Path(__file__) and not any(p in str(f) for p in parts)]


def test_nothing_names_a_folder_of_one_machine():
    found = [
        f"{file.relative_to(ROOT)}:{number} {line.strip()}"
        for file in written()
        for number, line in enumerate(file.read_text(errors="ignore").splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_path_rule_sees():
    for text in ('Path("/home/me/x")', "cd /tmp", "data.folder=/mnt/images", "'/root'"):
        assert MACHINE_PATHS.search(text), text
    for text in ("/encoder@x: dinov2", "runs/tmp/x", "a/home/b", "~/work/x", "/proc/cpuinfo"):
        assert not MACHINE_PATHS.search(text), text
